"""One output of a shared forward as one output a call. Pure functions on tensors."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from interlace.engine.calls.cached.joined import JoinedCache
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.packing.framed import frames
from interlace.engine.calls.packing.packers import from_strip, packing_of
from interlace.engine.calls.roles import Role
from interlace.engine.calls.rules import BLOCK_OUTPUTS, OUTPUT_ROW_DIMS, SQUEEZED_OUTPUTS
from interlace.engine.calls.tree import flatten, rebuild
from interlace.engine.device.waits import DeviceWait


class CannotSplitError(Exception):
    """A fused output in which no row dimension can be found."""


def split(output: Any, calls: Sequence[ModuleCall]) -> list[Any]:
    """One output a call: the rows that are its own. Raises `CannotSplitError` where a tensor has no row dimension."""
    splitter = _Splitter(calls, getattr(output, "image_outputs", None))
    leaves: list[Any] = []
    flatten(output, leaves, splitter.stop, objects=True)
    columns = [splitter.split(leaf) for leaf in leaves]
    return [rebuild(output, (column[i] for column in columns), splitter.stop, objects=True) for i in range(len(calls))]


def packed(calls: Sequence[ModuleCall]) -> bool:
    """Whether the calls differ in where their image tokens are, so that each row has its own length and positions."""
    first = calls[0]
    return packing_of(first.target.module) is not None and any(call.places != first.places for call in calls[1:])


_Grid = tuple[tuple[int, ...], tuple[int, ...]]


def _grids(call: ModuleCall) -> list[_Grid]:
    """The sides of a patch of whole latents, and their own."""
    pairs = zip(call.layout, call.leaves, strict=True)
    return [(leaf.patch, tuple(value.shape[2:])) for leaf, value in pairs if leaf.patch]


class _Splitter:
    def __init__(self, calls: Sequence[ModuleCall], images: Any = None) -> None:
        """`images`: the part of the output that a vision encoder made of all pictures of all rows."""
        self.calls, self.images = calls, images
        self.rows = [call.rows for call in calls]
        self.total = sum(self.rows)
        self.in_blocks = type(calls[0].target.module).__name__ in BLOCK_OUTPUTS
        self.squeezed = type(calls[0].target.module).__name__ in SQUEEZED_OUTPUTS
        self.dim = OUTPUT_ROW_DIMS.get(type(calls[0].target.module).__name__, 0)
        self.has_items = any(leaf.role is Role.ITEMS for leaf in calls[0].layout)
        texts = [call.texts for call in calls if call.texts is not None and call.texts.name == "input_ids"]
        self.lengths = [text.length for text in texts]  # of encoded texts: the outputs are as long
        self.grids: list[_Grid] = []  # of latents that came as strips
        if (own := frames(calls[0])) is not None:
            self.lengths = [frames(call) or own for call in calls]
        if packed(calls) and (packing := packing_of(calls[0].target.module)) is not None:
            self.grids = [grid for call in calls for grid in _grids(call)]
            self.lengths = [] if self.grids else [call.named[packing.tokens].shape[1] for call in calls]

    def stop(self, value: Any) -> bool:
        whole = isinstance(value, JoinedCache) or (self.images is not None and value is self.images)
        return whole or (self.has_items and type(value) is list and len(value) == self.total)

    def split(self, leaf: Any) -> Sequence[Any]:
        if isinstance(leaf, JoinedCache):
            return leaf.owners
        if self.images is not None and leaf is self.images:
            return _split_images(leaf, [call.named.get("image_grid_thw") for call in self.calls])
        if isinstance(leaf, list):
            bounds = np.cumsum([0, *self.rows])
            return [leaf[a:b] for a, b in itertools.pairwise(bounds)]
        if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0:
            return [leaf] * len(self.rows)
        if self.dim:
            return self._across(leaf)
        if leaf.shape[0] % self.total:
            raise CannotSplitError(f"an output of shape {tuple(leaf.shape)} has no dimension of {self.total} rows")
        multiple = leaf.shape[0] // self.total
        if multiple > 1 and self.in_blocks:
            blocks = leaf.unflatten(0, (multiple, self.total)).split(self.rows, dim=1)
            return self._cut([part.flatten(0, 1) for part in blocks])
        parts = leaf.split([n * multiple for n in self.rows])
        if self.grids:
            return [from_strip(part, *grid) for part, grid in zip(parts, self.grids, strict=True)]
        if self.squeezed:
            return [part[0] if rows == 1 else part for part, rows in zip(parts, self.rows, strict=True)]
        return self._cut(parts)

    def _across(self, leaf: torch.Tensor) -> Sequence[Any]:
        """Of outputs [tokens, rows, ...]."""
        if leaf.ndim <= self.dim or leaf.shape[self.dim] != self.total or len(set(self.lengths)) > 1:
            raise CannotSplitError(f"an output of shape {tuple(leaf.shape)} has no {self.total} rows of one length")
        return leaf.split(self.rows, self.dim)

    def _cut(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Without the padding of calls that are shorter than others."""
        if len(set(self.lengths)) < 2:
            return parts
        return [_trim(part, max(self.lengths), length) for part, length in zip(parts, self.lengths, strict=True)]


def _split_images(output: Any, grids: Sequence[torch.Tensor | None]) -> list[Any]:
    """A vision encoder's output by the calls whose pictures it holds; `grids`: [pictures, 3] patches of each call.

    Tensors hold the patches of all pictures one after the other; `pooler_output` is a tuple with an item a picture.
    """
    known = [grid for grid in grids if grid is not None]
    if len(known) < len(grids):
        raise CannotSplitError("an output holds pictures' features, and nothing says how many each call has")
    with DeviceWait("pictures"):
        patches = [int(grid.prod(-1).sum()) for grid in known]
    pictures = [len(grid) for grid in known]

    def by_picture(value: Any) -> bool:
        return type(value) is tuple and value is getattr(output, "pooler_output", None)

    def parts(leaf: Any) -> Sequence[Any]:
        if type(leaf) is tuple and len(leaf) == sum(pictures):
            return [leaf[a:b] for a, b in itertools.pairwise(itertools.accumulate(pictures, initial=0))]
        if not isinstance(leaf, torch.Tensor):
            return [leaf] * len(known)
        if leaf.ndim == 0 or len(leaf) != sum(patches):
            raise CannotSplitError(f"a picture's features of shape {tuple(leaf.shape)} are not {sum(patches)} patches")
        return leaf.split(patches)

    leaves: list[Any] = []
    flatten(output, leaves, by_picture, objects=True)
    columns = [parts(leaf) for leaf in leaves]
    return [rebuild(output, (column[i] for column in columns), by_picture, objects=True) for i in range(len(known))]


def _trim(part: torch.Tensor, padded: int, length: int) -> torch.Tensor:
    """Cut the text dimension of [rows, tokens(, channels)] or [rows, heads, tokens, channels] to `length`."""
    for dim in range(1, max(part.ndim - 1, 2)):
        if part.ndim > dim and part.shape[dim] == padded:
            part = part.narrow(dim, 0, length)
    return part
