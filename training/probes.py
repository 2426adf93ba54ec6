"""What the parts of the denoiser must know on their way, and losses that see to it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerFast

from interlace.demo.shapes import COLOURS, PATTERNS, SHAPES, SIZES, draw_mask, parity
from training.scenes import Background, Scene, Thing

TOKEN = 16  # pixels a side of an image token
CELLS = 4  # a side of an image token
_WAVES = (1.0, 2.0, 4.0)  # half periods over the picture
_THINGS_COUNT = 4.0  # times as much as the background, in the losses of the cells
_UNTOLD = -100  # a label that counts for nothing, in PyTorch's cross entropy
_BINS = 9  # of a place, along each axis
_NAMES = list(COLOURS)
# What a caption's tokens must know: of a shape's word all about that thing, of "background" all about that.
_FACTS = {"colour": len(COLOURS), "size": len(SIZES), "x": _BINS, "y": _BINS,
          "pattern": len(PATTERNS), "first": len(COLOURS), "second": len(COLOURS)}  # fmt: skip


class Known(NamedTuple):
    """The labels of a batch, as class numbers.

    `shapes` and `colours` are [rows, image tokens, CELLS * CELLS] (`cells_of`), `facts` [rows, text tokens, facts]. For
    edits, `before` are the shapes in the picture before, and `meant` (1 or 0) is what the instruction speaks of there.
    """

    shapes: torch.Tensor
    colours: torch.Tensor
    facts: torch.Tensor
    before: torch.Tensor = torch.empty(0)
    meant: torch.Tensor = torch.empty(0)

    def to(self, device: str) -> "Known":
        """All labels on `device`."""
        return Known(*(labels.to(device) for labels in self))


def cells_of(scenes: list[Scene], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What covers each cell of pictures of `height` x `width` image tokens, and its colour.

    Both [scenes, tokens, CELLS * CELLS]. Shapes are 0 for the background, else 1 + the shape's number; of things one
    over the other, the upper one counts. The middle of a gradient has no colour.
    """
    shapes = np.zeros((len(scenes), height * CELLS, width * CELLS), np.int64)
    colours = np.zeros_like(shapes)
    for covered, painted, scene in zip(shapes, colours, scenes, strict=True):
        first, last = (_NAMES.index(scene.background.colours[i]) for i in (0, -1))
        second = parity(scene.background.pattern, width * TOKEN, height * TOKEN)[:: TOKEN // CELLS, :: TOKEN // CELLS]
        painted[:] = np.where(second, last, first)
        if scene.background.pattern == "gradient":
            painted[height * CELLS // 4 :] = _UNTOLD
            painted[height * CELLS * 3 // 4 :] = last
        for thing in scene.things:
            mask = np.asarray(draw_mask(thing.shape, thing.x, thing.y, thing.half, width * CELLS, height * CELLS)) > 127
            covered[mask], painted[mask] = 1 + SHAPES.index(thing.shape), _NAMES.index(thing.colour)
    return _split(shapes, height, width), _split(colours, height, width)


def _split(maps: np.ndarray, height: int, width: int) -> torch.Tensor:
    cells = torch.from_numpy(maps).unflatten(2, (width, CELLS)).unflatten(1, (height, CELLS))
    return cells.transpose(2, 3).reshape(len(maps), height * width, CELLS * CELLS)


def changed(before: Scene, after: Scene) -> tuple[Thing, ...]:
    """The things of an instruction, as it names them: the one that it means, and what that becomes; or the new one."""
    gone = (thing for thing in before.things if thing not in after.things)
    new = (thing for thing in after.things if thing not in before.things)
    return (*gone, *new)


def facts_of(
    tokens: torch.Tensor,
    things: Sequence[Sequence[Thing]],
    backgrounds: Sequence[Background],
    words: PreTrainedTokenizerFast,
) -> torch.Tensor:
    """What the tokens [rows, tokens] of texts must know, as [rows, tokens, facts].

    `things` are those of each text, as it names them.
    """
    facts = torch.full((*tokens.shape, len(_FACTS)), _UNTOLD)
    shape_ids, background_id = set(words.convert_tokens_to_ids(list(SHAPES))), words.convert_tokens_to_ids("background")
    for row, (ids, named, behind) in enumerate(zip(tokens.tolist(), things, backgrounds, strict=True)):
        places = [at for at, word in enumerate(ids) if word in shape_ids]
        for at, thing in zip(places, named, strict=False):  # an empty text names none
            x, y = (min(int(c * _BINS), _BINS - 1) for c in (thing.x, thing.y))
            told = (_NAMES.index(thing.colour), list(SIZES).index(thing.size), x, y)
            facts[row, at, : len(told)] = torch.tensor(told)
        for at in (at for at, word in enumerate(ids) if word == background_id):
            colours = [_NAMES.index(behind.colours[i]) for i in (0, -1)]
            facts[row, at, 4:] = torch.tensor([PATTERNS.index(behind.pattern), *colours])
    return facts


class Probes(nn.Module):
    """Linear readers of what the parts must know. Their losses train the parts along. Not exported.

    - Text: the words in both encodings; of each thing, at its shape's word, colour, size and place; the background.
    - Image tokens after the two-stream blocks: where they are, and, in an edit, what the picture before has there.
      Text tokens all stand at (0, 0), so where an image token is can only be found out through the rotary phases of its
      attention to them.
    - The tokens of the picture before, there too: which shapes they show, and which cells are of the thing that the
      instruction means; and the instruction's words: where that thing is, its size and colour.
    - Image tokens later on: which shape and colour covers each cell. Outlines are a small part of the latents' error,
      but all of the shape's.
    """

    def __init__(self, vocab_size: int, width: int, channels: int) -> None:
        super().__init__()
        self.words, self.bag = nn.Linear(128, vocab_size), nn.Linear(64, vocab_size)
        self.place = nn.Linear(width, 2 * 2 * len(_WAVES))
        self.cells = nn.Linear(width, CELLS * CELLS * (1 + len(SHAPES)))
        self.facts = nn.Linear(128, sum(_FACTS.values()))
        self.colours = nn.Linear(width, CELLS * CELLS * len(COLOURS))
        self.before = nn.Linear(width, channels)
        self.seen = nn.Linear(width, CELLS * CELLS * (1 + len(SHAPES)))
        self.meant = nn.Linear(width, CELLS * CELLS * 2)
        self.pointed = nn.Linear(width, sum(_FACTS.values()))
        self.text, self.early, self.late = torch.empty(0), torch.empty(0), torch.empty(0)

    def see_early(self, _block: nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook of the last two-stream block, which returns (text tokens, image tokens)."""
        self.text, self.early = output

    def see_late(self, _block: nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook of a one-stream block."""
        self.late = output[1]

    def forward(
        self, tokens: torch.Tensor, words: torch.Tensor, pooled: torch.Tensor, known: Known, height: int, width: int,
        before: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """The sum of the losses; `before` are an edit's packed latents of the picture before."""
        count = height * width
        kept = F.cross_entropy(self.words(words).flatten(0, 1), tokens.flatten())
        there = torch.zeros(len(tokens), self.bag.out_features, device=tokens.device).scatter_(1, tokens, 1.0)
        bag = F.binary_cross_entropy_with_logits(self.bag(pooled), there)
        y, x = torch.meshgrid(_phases(height), _phases(width), indexing="ij")
        waves = torch.cat([f(c[..., None] * torch.tensor(_WAVES)) for f in (torch.sin, torch.cos) for c in (y, x)], -1)
        found = self.place(self.early[:, :count])
        placed = F.mse_loss(found, waves.flatten(0, 1).to(found).expand_as(found))
        shapes = known.shapes[:, :count]
        counts = torch.where(shapes > 0, _THINGS_COUNT, 1.0)
        outlined = _cells_loss(self.cells(self.late[:, :count]), shapes, counts)
        painted = _cells_loss(self.colours(self.late[:, :count]), known.colours, counts)
        loss = 0.1 * kept + 4 * bag + 0.5 * placed + 0.3 * outlined + 0.3 * painted
        if before is None:
            return loss + 0.1 * _facts_loss(self.facts(words), known.facts)
        shown = self.early[:, count:]
        counts = torch.where(known.before > 0, _THINGS_COUNT, 1.0)
        seen = _cells_loss(self.seen(shown), known.before, counts) + _cells_loss(self.meant(shown), known.meant, counts)
        pointed = _facts_loss(self.pointed(self.text), known.facts)
        return loss + 0.5 * F.mse_loss(self.before(self.early[:, :count]), before) + 0.1 * seen + 0.05 * pointed


def _cells_loss(found: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    logits = found.unflatten(2, (CELLS * CELLS, -1)).flatten(0, 2)
    errors = F.cross_entropy(logits, labels.flatten(), ignore_index=_UNTOLD, reduction="none")
    return (errors * counts.flatten()).sum() / counts.sum()


def _facts_loss(found: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """Sum over the kinds of facts; each the mean over the tokens that must know it."""
    losses = [
        F.cross_entropy(logits.flatten(0, 1), facts[..., i].flatten(), ignore_index=_UNTOLD, reduction="sum")
        / (facts[..., i] != _UNTOLD).sum().clamp(min=1)
        for i, logits in enumerate(found.split(list(_FACTS.values()), dim=2))
    ]
    return torch.stack(losses).sum()


def _phases(count: int) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count * torch.pi
