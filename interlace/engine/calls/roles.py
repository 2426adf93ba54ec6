"""What the arguments of a module's method mean row by row: which are rows, which are shared, which may be padded."""

import hashlib
import inspect
from collections.abc import Hashable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch

from interlace.engine.calls.cached.rows import row_caches
from interlace.engine.calls.cached.text import CachedText, length, structure, text_of
from interlace.engine.calls.packing.framed import FRAMED
from interlace.engine.calls.packing.packers import Packing, packing_of, patches
from interlace.engine.calls.rules import (
    OPTIONAL_MASKS,
    PACKED_ARGUMENTS,
    RAGGED_ITEMS,
    ROW_DIMS,
    ROW_MULTIPLES,
    SCALES,
    SHARED_ARGUMENTS,
    TEXT_BUCKET,
    TEXT_MASKS,
    UNUSED_ARGUMENTS,
)
from interlace.engine.calls.tree import is_atom


class Role(IntEnum):
    """What one leaf of a call's arguments means for fusing."""

    ROWS = 0  # rows along `dim`, `multiple` entries a row: concatenated
    SCALAR = 1  # one number for all rows, [] or [1] or [rows]: expanded to rows, then concatenated
    ITEMS = 2  # a list with one item a row: joined
    MASK = 5  # the text's mask, or None where nothing is masked: made up where texts of other lengths join
    PACKED = 3  # entries of all rows one after the other, any number a row: concatenated
    SHARED = 4  # equal by value or the calls can't share
    POSITIONS = 6  # where the image tokens are: one for all, or by the row in a forward of several sizes
    CACHE = 7  # a text's keys and values, joined for the forward
    CACHE_POSITIONS = 9  # where a text goes on that the cache holds, left to the module by the caller
    SCALE = 10  # a number that each row may have its own of
    CACHE_MASK = 8  # which positions of cache and text count, or None: made up for the joined cache


class Leaf(NamedTuple):
    """The role of one argument leaf; `name` is the argument that it came in."""

    name: str
    role: Role
    dim: int = 0
    multiple: int = 1
    padded: bool = False  # its second dimension is text tokens, padded to the longest
    patch: tuple[int, ...] = ()  # whole latents, cut into patches of these sides where sizes differ


class Texts(NamedTuple):
    """The text of a call that can be padded: which argument it is, its mask's name, and how many tokens it has."""

    name: str
    mask: str
    length: int


class UnfusableError(Exception):
    """These arguments can't be shared; the message says which and why."""


class Roles:
    """Finds the roles of the leaves of one call of `module` with `rows` rows and the arguments `named`."""

    def __init__(self, module: torch.nn.Module, named: dict[str, object], rows: int) -> None:
        self.module, self.named, self.rows = module, named, rows
        self.class_name = type(module).__name__
        self.cached = CachedText.of(module, named)
        alone = self.cached is not None or bool(row_caches(named))  # what is cached has its text's length
        self.texts = None if alone else _texts(self.class_name, named, rows)

    def length(self, leaf: Leaf, value: Any) -> Hashable:
        """The size that may differ within a signature, if one may."""
        if leaf.patch:
            return value.shape[2:]
        if leaf.role is Role.CACHE:
            return length(value)
        if leaf.role is Role.ITEMS and leaf.name in RAGGED_ITEMS:
            return tuple(item.shape[0] for item in value)
        return value.shape[1] if leaf.padded and (self.texts is None or leaf.name != self.texts.name) else None

    def of(self, name: str, leaf: Any) -> tuple[Leaf, Hashable]:
        """The role of one leaf, and what of it must be equal for two calls to share."""
        if self.cached is not None and (cached := self._of_cached(self.cached, name, leaf)) is not None:
            return cached
        if name in FRAMED.get(self.class_name, ()) and isinstance(leaf, torch.Tensor) and leaf.ndim > 1:
            return Leaf(name, Role.ROWS, padded=True), _tensor_key(leaf, leaf.shape[2:])
        packing = packing_of(self.module)
        if packing is not None and (found := self._of_packed(packing, name, leaf)) is not None:
            return found
        if isinstance(leaf, list):
            ragged = 1 if name in RAGGED_ITEMS else 0
            return Leaf(name, Role.ITEMS), tuple(sorted({_item_key(item, ragged) for item in leaf}))
        if self.texts is not None and name == self.texts.mask:
            return Leaf(name, Role.MASK), None
        if self.texts is not None and name == self.texts.name:
            key = _tensor_key(leaf, (-(-self.texts.length // TEXT_BUCKET), *leaf.shape[2:]))
            return Leaf(name, Role.ROWS, padded=True), key
        if type(leaf) is float and (dims := self._scaled(name, leaf)):
            return Leaf(name, Role.SCALE, dims), Role.SCALE
        if not isinstance(leaf, torch.Tensor):
            unused = (self.class_name, name) in UNUSED_ARGUMENTS
            return Leaf(name, Role.SHARED), None if unused else _constant_key(name, leaf)
        role = self._role(name, leaf)
        if role.role is Role.SHARED:
            return role, _tensor_key(leaf, leaf.shape)
        if role.role is Role.SCALAR:
            return role, _tensor_key(leaf, ())
        rest = leaf.shape[: role.dim] + leaf.shape[role.dim + 1 :]
        return role, _tensor_key(leaf, rest)

    def _of_packed(self, packing: Packing, name: str, leaf: Any) -> tuple[Leaf, Hashable] | None:
        """The role of what may differ between sizes; None for what is as in any other call."""
        if name in packing.positions:
            return Leaf(name, Role.POSITIONS), type(leaf).__name__
        if not isinstance(leaf, torch.Tensor):
            return None
        if name == packing.tokens and packing.whole:
            patch = patches(self.module, leaf)
            return (Leaf(name, Role.ROWS, patch=patch), _tensor_key(leaf, leaf.shape[1:2])) if patch else None
        if (name == packing.tokens and leaf.ndim == 3) or (name in packing.by_token and leaf.ndim > 1):
            return Leaf(name, Role.ROWS, padded=True), _tensor_key(leaf, leaf.shape[2:])
        return None

    def _of_cached(self, text: CachedText, name: str, leaf: Any) -> tuple[Leaf, Hashable] | None:
        """The role of what comes with a key-value cache; None for what is as in any other call."""
        if leaf is text.cache:
            if text.reason:
                raise UnfusableError(text.reason)
            return Leaf(name, Role.CACHE), (structure(leaf), None if text.positioned else length(leaf))
        if name == "attention_mask":
            if leaf is not None and not (isinstance(leaf, torch.Tensor) and leaf.ndim == 2):
                raise UnfusableError("a prepared attention mask beside a cache")
            return Leaf(name, Role.CACHE_MASK), None
        if name == "position_ids" and leaf is None:
            return Leaf(name, Role.CACHE_POSITIONS), None
        if name == "position_ids" and isinstance(leaf, torch.Tensor) and leaf.ndim == 3:
            return Leaf(name, Role.ROWS, 1), _tensor_key(leaf, (leaf.shape[0], leaf.shape[2]))
        return None

    def _scaled(self, name: str, scale: float) -> int:
        """The dimensions of what a number multiplies, where a tensor of numbers would do the same to the bit."""
        dims = SCALES.get((self.class_name, name), 0)
        dtype = next((one.dtype for one in self.named.values() if isinstance(one, torch.Tensor)), torch.float32)
        exact = dtype in (torch.float32, torch.float64) or float(torch.tensor(scale, dtype=dtype)) == scale
        return dims if exact and not self.named.get("guess_mode") else 0

    def _role(self, name: str, leaf: torch.Tensor) -> Leaf:
        dim = ROW_DIMS.get((self.class_name, name))
        if dim is not None and leaf.ndim > dim and leaf.shape[dim] == self.rows:
            return Leaf(name, Role.ROWS, dim)
        if (self.class_name, name) in SHARED_ARGUMENTS or SHARED_ARGUMENTS.get(name) == leaf.ndim:
            return Leaf(name, Role.SHARED)
        if leaf.ndim == 0 or (leaf.ndim == 1 and leaf.shape[0] in (1, self.rows)):
            return Leaf(name, Role.SCALAR)
        if name in PACKED_ARGUMENTS and self.named.get(PACKED_ARGUMENTS[name]) is not None:
            return Leaf(name, Role.PACKED)
        if leaf.shape[0] == self.rows:
            return Leaf(name, Role.ROWS)
        if name in ROW_MULTIPLES and leaf.shape[0] % self.rows == 0:
            return Leaf(name, Role.ROWS, multiple=leaf.shape[0] // self.rows)
        return Leaf(name, Role.SHARED)


def _tensor_key(tensor: torch.Tensor, shape: Any) -> Hashable:
    return tensor.dtype, tensor.device, tuple(shape), tensor.requires_grad


def _item_key(item: torch.Tensor | None, ragged: int) -> str:
    return "" if item is None else repr(_tensor_key(item, item.shape[ragged:]))


def _texts(class_name: str, named: dict[str, Any], rows: int) -> Texts | None:
    """The argument that can be padded together with its mask, if there is one."""
    for name, masks in TEXT_MASKS.items():
        text = named.get(name)
        if not isinstance(text, torch.Tensor) or text.ndim < 2 or text.shape[0] != rows:
            continue
        for mask in masks:
            if mask not in named:
                continue
            given = named[mask]
            fits = isinstance(given, torch.Tensor) and given.shape == text.shape[:2]
            if fits or (given is None and OPTIONAL_MASKS.get(class_name) == mask):
                return Texts(name, mask, text.shape[1])
    return None


def _constant_key(name: str, value: Any) -> Hashable:
    if is_atom(value):
        return type(value), value
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.blake2b(value.tobytes(), digest_size=16).digest()
    if inspect.isroutine(value) or isinstance(value, type):
        return id(value)
    raise UnfusableError(f"{name} holds a {type(value).__name__}, whose meaning is unknown")


def primary_of(named: dict[str, Any]) -> torch.Tensor | list[torch.Tensor]:
    """The argument that says how many rows a call has: a text beside its cache, the first batched tensor, or the first
    list of tensors."""
    if (text := text_of(named)) is not None:
        return text
    for value in named.values():
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            return value
        if type(value) is list and value and all(isinstance(item, torch.Tensor) for item in value):
            return value
    raise UnfusableError("no argument has rows")


def positions_of(tensor: torch.Tensor) -> int:
    """Positions (tokens, latent pixels) over all rows: [rows, tokens, channels] or [rows, channels, ...]."""
    if tensor.ndim == 2:
        return tensor.numel() if not tensor.is_floating_point() else tensor.shape[0]
    channels = tensor.shape[-1] if tensor.ndim == 3 else tensor.shape[1]
    return tensor.numel() // max(channels, 1)
