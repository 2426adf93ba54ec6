"""What the parts of the denoiser must keep on their way, and a loss that sees to it."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from interlace.demo.shapes import SHAPES, draw_mask
from training.scenes import Scene

CELLS = 4  # a side of an image token, each 4x4 pixels
_WAVES = (1.0, 2.0, 4.0)  # half periods over the picture
_THINGS_COUNT = 4.0  # times as much as the background, in the loss of the cells


def cells_of(scenes: list[Scene], height: int, width: int) -> torch.Tensor:
    """What covers each cell of pictures of `height` x `width` image tokens: 0 nothing, else 1 + the shape's number.

    [scenes, tokens, CELLS * CELLS]; of things one over the other, the upper one.
    """
    maps = np.zeros((len(scenes), height * CELLS, width * CELLS), np.int64)
    for covered, scene in zip(maps, scenes, strict=True):
        for thing in scene.things:
            mask = draw_mask(thing.shape, thing.x, thing.y, thing.half, width * CELLS, height * CELLS)
            covered[np.asarray(mask) > 127] = 1 + SHAPES.index(thing.shape)
    split = torch.from_numpy(maps).unflatten(2, (width, CELLS)).unflatten(1, (height, CELLS))
    return split.transpose(2, 3).reshape(len(scenes), height * width, CELLS * CELLS)


class Probes(nn.Module):
    """Linear readers of what the parts must keep: words in the text encodings, places and outlines in the image tokens.

    Their losses train the parts along, and are why positions are learned in minutes: text tokens all stand at (0, 0),
    so where an image token is can only be found out through the rotary phases of its attention to them. Outlines are a
    small part of the latents' error, but all of the shape's. Not exported.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.words, self.bag = nn.Linear(128, vocab_size), nn.Linear(64, vocab_size)
        self.place = nn.Linear(width, 2 * 2 * len(_WAVES))
        self.cells = nn.Linear(width, CELLS * CELLS * (1 + len(SHAPES)))
        self.early, self.late = torch.empty(0), torch.empty(0)

    def see_early(self, _block: nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook of the last two-stream block, which returns (text tokens, image tokens): places are read from here."""
        self.early = output[1]

    def see_late(self, _block: nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook of a one-stream block: outlines are read from here."""
        self.late = output[1]

    def forward(
        self, tokens: torch.Tensor, words: torch.Tensor, pooled: torch.Tensor, cells: torch.Tensor,
        height: int, width: int,
    ) -> torch.Tensor:  # fmt: skip
        """The sum of the losses; `cells` as of `cells_of`."""
        kept = F.cross_entropy(self.words(words).flatten(0, 1), tokens.flatten())
        there = torch.zeros(len(tokens), self.bag.out_features, device=tokens.device).scatter_(1, tokens, 1.0)
        bag = F.binary_cross_entropy_with_logits(self.bag(pooled), there)
        y, x = torch.meshgrid(_phases(height), _phases(width), indexing="ij")
        waves = torch.cat([f(c[..., None] * torch.tensor(_WAVES)) for f in (torch.sin, torch.cos) for c in (y, x)], -1)
        found = self.place(self.early[:, : height * width])
        placed = F.mse_loss(found, waves.flatten(0, 1).to(found).expand_as(found))
        covered = self.cells(self.late[:, : height * width]).unflatten(2, (CELLS * CELLS, -1))
        counts = torch.where(cells > 0, _THINGS_COUNT, 1.0)
        outlined = F.cross_entropy(covered.flatten(0, 2), cells.flatten(), reduction="none") * counts.flatten()
        return 0.1 * kept + 4 * bag + 0.5 * placed + 0.3 * outlined.sum() / counts.sum()


def _phases(count: int) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count * torch.pi
