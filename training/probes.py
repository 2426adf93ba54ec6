"""What the parts of the denoiser must keep on their way, and a loss that sees to it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_WAVES = (1.0, 2.0, 4.0)  # half periods over the picture


class Probes(nn.Module):
    """Linear readers of what the parts must keep: words in the text encodings, places in the image tokens.

    Their losses train the parts along, and are why positions are learned in minutes: text tokens all stand at (0, 0),
    so where an image token is can only be found out through the rotary phases of its attention to them. Not exported.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.words, self.bag = nn.Linear(128, vocab_size), nn.Linear(64, vocab_size)
        self.place = nn.Linear(width, 2 * 2 * len(_WAVES))
        self.seen = torch.empty(0)

    def see(self, _block: nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook of the last two-stream block, which returns (text tokens, image tokens)."""
        self.seen = output[1]

    def forward(
        self, tokens: torch.Tensor, words: torch.Tensor, pooled: torch.Tensor, height: int, width: int
    ) -> torch.Tensor:
        """The sum of the losses."""
        kept = F.cross_entropy(self.words(words).flatten(0, 1), tokens.flatten())
        there = torch.zeros(len(tokens), self.bag.out_features, device=tokens.device).scatter_(1, tokens, 1.0)
        bag = F.binary_cross_entropy_with_logits(self.bag(pooled), there)
        y, x = torch.meshgrid(_phases(height), _phases(width), indexing="ij")
        waves = torch.cat([f(c[..., None] * torch.tensor(_WAVES)) for f in (torch.sin, torch.cos) for c in (y, x)], -1)
        found = self.place(self.seen[:, : height * width])
        placed = F.mse_loss(found, waves.flatten(0, 1).to(found).expand_as(found))
        return 0.1 * kept + 4 * bag + 0.5 * placed


def _phases(count: int) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count * torch.pi
