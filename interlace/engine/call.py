"""One paused call of a module's method: its arguments, what they mean row by row, and its signature.

Two calls with equal signatures may share a forward. Knows nothing of strands or scheduling.
"""

import hashlib
import inspect
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from interlace.engine.digest import digest
from interlace.engine.tree import Skeleton, flatten, is_atom
from interlace.models.packers import PACKINGS, patch_size
from interlace.models.rules import (
    OPTIONAL_MASKS,
    PACKED_ARGUMENTS,
    RAGGED_ITEMS,
    ROW_DIMS,
    ROW_MULTIPLES,
    SHARED_ARGUMENTS,
    TEXT_BUCKET,
    TEXT_MASKS,
    UNUSED_ARGUMENTS,
)

if TYPE_CHECKING:
    from interlace.engine.first_block import BlockMemory


class Role(IntEnum):
    """What one leaf of a call's arguments means for fusing."""

    ROWS = 0  # rows along `dim`, `multiple` entries a row: concatenated
    SCALAR = 1  # one number for all rows, [] or [1] or [rows]: expanded to rows, then concatenated
    ITEMS = 2  # a list with one item a row: joined
    MASK = 5  # the text's mask, or None where nothing is masked: made up where texts of other lengths join
    PACKED = 3  # entries of all rows one after the other, any number a row: concatenated
    SHARED = 4  # equal by value or the calls can't share
    POSITIONS = 6  # where the image tokens are: one for all, or by the row in a forward of several sizes


class Leaf(NamedTuple):
    """The role of one argument leaf; `name` is the argument that it came in."""

    name: str
    role: Role
    dim: int = 0
    multiple: int = 1
    padded: bool = False  # its second dimension is text tokens, padded to the longest
    patch: int = 0  # whole latents, cut into patches of this side where sizes differ


class Texts(NamedTuple):
    """The text of a call that can be padded: which argument it is, its mask's name, and how many tokens it has."""

    name: str
    mask: str
    length: int


class _Hashed:
    """A nested key whose hash is computed once."""

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Hashable) -> None:
        self._key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Hashed) and self._hash == other._hash and self._key == other._key)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an analysis comes to for all calls with equal structure, sizes and constants: contents alone are left.

    `shared` and `positions` are the places of tensors whose contents go into signature and lengths.
    """

    rows: int
    tokens: int
    layout: tuple[Leaf, ...]
    skeleton: Skeleton
    kind: Hashable
    signature: _Hashed
    texts: Texts | None
    lengths: Hashable
    places: Hashable
    shared: tuple[int, ...]
    positions: tuple[int, ...]


_MAX_PLANS = 256  # of one method, in case that a constant differs in every call


class UnfusableError(Exception):
    """These arguments can't be shared; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A method of a component that is intercepted. `run` is the original, `names` its positional parameters."""

    component: str  # name in the pipeline: "transformer", "vae"
    module: torch.nn.Module
    method: str  # "forward", "encode", "decode"
    run: Callable[..., Any]
    names: tuple[str, ...]
    plans: dict[Hashable, _Plan] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, component: str, module: torch.nn.Module, method: str, run: Callable[..., Any]) -> "Target":
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(run).parameters.values()
        return cls(component, module, method, run, tuple(p.name for p in parameters if p.kind in kinds))

    @property
    def label(self) -> str:
        """The component's name, with the method where it isn't `forward`: "vae.decode"."""
        return self.component if self.method == "forward" else f"{self.component}.{self.method}"


class ModuleCall:
    """The call `target(*args, **kwargs)`, analysed.

    `rows` is the number of independent samples along the batch dimension; `tokens` the positions that they hold
    together. `signature` is None when the call can't be shared, and `unfusable` says why. Calls whose texts are padded
    to share have one `signature` and different `lengths`.
    """

    __slots__ = (
        "ambient",
        "args",
        "kind",
        "kwargs",
        "layout",
        "leaves",
        "lengths",
        "memory",
        "places",
        "rows",
        "signature",
        "skeleton",
        "target",
        "texts",
        "tokens",
        "unfusable",
    )  # fmt: skip

    def __init__(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], ambient: Hashable) -> None:
        self.target, self.args, self.kwargs, self.ambient = target, args, kwargs, ambient
        self.rows, self.tokens = 1, 1
        self.leaves: list[Any] = []
        self.layout: tuple[Leaf, ...] = ()
        self.skeleton: Skeleton = None
        self.kind: Hashable = None
        self.signature: Hashable = None
        self.texts: Texts | None = None
        self.lengths: Hashable = None  # of the texts that may differ within a signature
        self.places: Hashable = None  # where the image tokens are
        self.memory: BlockMemory | None = None  # of a first block cache
        self.unfusable = ""
        try:
            self._analyse()
        except UnfusableError as reason:
            self.unfusable = str(reason)

    def stop(self, value: Any) -> bool:
        """Where flattening halts: at a list with one item a row."""
        return type(value) is list and len(value) == self.rows and self._is_item_list(value)

    def _is_item_list(self, value: list[Any]) -> bool:
        return self._has_items and all(isinstance(v, torch.Tensor) or v is None for v in value)

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by name."""
        return dict(zip(self.target.names, self.args, strict=False)) | self.kwargs

    @property
    def shape(self) -> str:
        """Module, precision and sizes of one row, in words: forwards of one shape and row count cost the same."""
        sizes, dtype = [], ""
        for leaf, value in zip(self.layout, self.leaves, strict=True):
            if leaf.role in (Role.ROWS, Role.PACKED) and value.ndim > 1:
                row = [size for dim, size in enumerate(value.shape) if dim != leaf.dim]
                if self.texts is not None and leaf.name == self.texts.name:
                    row[0] = -(-row[0] // TEXT_BUCKET) * TEXT_BUCKET
                sizes.append(f"{leaf.name} {'x'.join(map(str, row))}")
                dtype = dtype or str(value.dtype).removeprefix("torch.")
            elif leaf.role is Role.ITEMS:
                sizes += sorted({f"{leaf.name} {'x'.join(map(str, item.shape))}" for item in value if item is not None})
        return f"{self.target.label} {type(self.target.module).__name__} {dtype}: {', '.join(sizes)}"

    @property
    def _has_items(self) -> bool:
        return isinstance(self.leaves, _ItemLeaves)

    def _analyse(self) -> None:
        if self.target.method == "generate":
            raise UnfusableError("generation keeps state between its forwards")
        named = self.named
        if len(self.args) > len(self.target.names):
            raise UnfusableError("more positional arguments than the method names")
        primary = _primary(named)
        if isinstance(primary, list):
            self.leaves, self.rows = _ItemLeaves(), len(primary)
        bounds, skeletons = [0], []
        for name, value in named.items():
            skeletons.append((name, flatten(value, self.leaves, self.stop)))
            bounds.append(len(self.leaves))
        self.skeleton = tuple(skeletons)
        key = None if isinstance(primary, list) else _structure(self.leaves, self.skeleton, self.ambient)
        plan = self.target.plans.get(key) if key is not None else None
        if plan is None:
            plan = self._plan(named, primary, bounds)
            if key is not None:
                if len(self.target.plans) >= _MAX_PLANS:
                    self.target.plans.clear()
                self.target.plans[key] = plan
        self._follow(plan)

    def _follow(self, plan: _Plan) -> None:
        self.rows, self.tokens, self.texts = plan.rows, plan.tokens, plan.texts
        self.layout, self.skeleton, self.kind = plan.layout, plan.skeleton, plan.kind
        contents = [digest(self.leaves[i]) for i in plan.shared]
        self.signature = (plan.signature, *contents) if contents else plan.signature
        self.places = (plan.places, *(digest(self.leaves[i]) for i in plan.positions))
        self.lengths = (plan.lengths, self.places)

    def _plan(self, named: dict[str, Any], primary: torch.Tensor | list[torch.Tensor], bounds: list[int]) -> _Plan:
        """`bounds`: where in the leaves those of each argument begin and end."""
        if isinstance(primary, list):
            self.tokens = sum(item.numel() // max(item.shape[0], 1) for item in primary)
        else:
            self.rows, self.tokens = primary.shape[0], _positions(primary)
        if self.rows == 0:
            raise UnfusableError("no rows")
        class_name = type(self.target.module).__name__
        self.texts = _texts(class_name, named, self.rows)
        layout, keys = [], []  # type: list[Leaf], list[Hashable]
        lengths, places = [], []  # type: list[Hashable], list[Hashable]
        for name, (start, end) in zip(named, itertools.pairwise(bounds), strict=True):
            for leaf in self.leaves[start:end]:
                role, key = self._describe(class_name, name, leaf, named)
                layout.append(role)
                keys.append(key)
                if role.role is Role.POSITIONS:
                    places.append((leaf.dtype, leaf.shape) if isinstance(leaf, torch.Tensor) else leaf)
                elif (length := self._length(role, leaf)) is not None:
                    lengths.append(length)
        return _Plan(
            self.rows,
            self.tokens,
            tuple(layout),
            self.skeleton,
            _intern((class_name, self.target.method, self.skeleton, self.ambient, tuple(layout))),
            _Hashed((id(self.target.module), self.target.method, self.skeleton, self.ambient, tuple(keys))),
            self.texts,
            (self.texts and self.texts.length, *lengths),
            tuple(places),
            _tensors_of(Role.SHARED, layout, self.leaves),
            _tensors_of(Role.POSITIONS, layout, self.leaves),
        )

    def _length(self, leaf: Leaf, value: Any) -> Hashable:
        """The size that may differ within a signature, if one may."""
        if leaf.patch:
            return value.shape[2:]
        if leaf.role is Role.ITEMS and leaf.name in RAGGED_ITEMS:
            return tuple(item.shape[0] for item in value)
        return value.shape[1] if leaf.padded and (self.texts is None or leaf.name != self.texts.name) else None

    def _describe(self, class_name: str, name: str, leaf: Any, named: dict[str, Any]) -> tuple[Leaf, Hashable]:
        """The role of one leaf, and what of it must be equal for two calls to share."""
        packing = PACKINGS.get(class_name)
        if packing is not None and packing.tables is None and name == packing.tokens:
            patch = patch_size(self.target.module, leaf)
            if patch:
                return Leaf(name, Role.ROWS, patch=patch), _tensor_key(leaf, leaf.shape[1:2])
        elif packing is not None and name == packing.positions:
            return Leaf(name, Role.POSITIONS), type(leaf).__name__
        elif packing is not None and name == packing.tokens and isinstance(leaf, torch.Tensor) and leaf.ndim == 3:
            return Leaf(name, Role.ROWS, padded=True), _tensor_key(leaf, leaf.shape[2:])
        if isinstance(leaf, list):
            ragged = 1 if name in RAGGED_ITEMS else 0
            return Leaf(name, Role.ITEMS), tuple(sorted({_item_key(item, ragged) for item in leaf}))
        if self.texts is not None and name == self.texts.mask:
            return Leaf(name, Role.MASK), None
        if self.texts is not None and name == self.texts.name:
            key = _tensor_key(leaf, (-(-self.texts.length // TEXT_BUCKET), *leaf.shape[2:]))
            return Leaf(name, Role.ROWS, padded=True), key
        if not isinstance(leaf, torch.Tensor):
            unused = (class_name, name) in UNUSED_ARGUMENTS
            return Leaf(name, Role.SHARED), None if unused else _constant_key(name, leaf)
        role = self._role(class_name, name, leaf, named)
        if role.role is Role.SHARED:
            return role, _tensor_key(leaf, leaf.shape)
        if role.role is Role.SCALAR:
            return role, _tensor_key(leaf, ())
        rest = leaf.shape[: role.dim] + leaf.shape[role.dim + 1 :]
        return role, _tensor_key(leaf, rest)

    def _role(self, class_name: str, name: str, leaf: torch.Tensor, named: dict[str, Any]) -> Leaf:
        dim = ROW_DIMS.get((class_name, name))
        if dim is not None and leaf.ndim > dim and leaf.shape[dim] == self.rows:
            return Leaf(name, Role.ROWS, dim)
        if (class_name, name) in SHARED_ARGUMENTS or SHARED_ARGUMENTS.get(name) == leaf.ndim:
            return Leaf(name, Role.SHARED)
        if leaf.ndim == 0 or (leaf.ndim == 1 and leaf.shape[0] in (1, self.rows)):
            return Leaf(name, Role.SCALAR)
        if name in PACKED_ARGUMENTS and named.get(PACKED_ARGUMENTS[name]) is not None:
            return Leaf(name, Role.PACKED)
        if leaf.shape[0] == self.rows:
            return Leaf(name, Role.ROWS)
        if name in ROW_MULTIPLES and leaf.shape[0] % self.rows == 0:
            return Leaf(name, Role.ROWS, multiple=leaf.shape[0] // self.rows)
        return Leaf(name, Role.SHARED)


def _structure(leaves: list[Any], skeleton: Skeleton, ambient: Hashable) -> Hashable | None:
    """What calls with one plan have in common; None where there is more to a leaf than type, size and value."""
    keys: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            keys.append((leaf.dtype, leaf.device, leaf.shape, leaf.requires_grad))
        elif is_atom(leaf):
            keys.append((type(leaf), leaf))
        else:
            return None
    return skeleton, ambient, tuple(keys)


def _tensors_of(role: Role, layout: list[Leaf], leaves: list[Any]) -> tuple[int, ...]:
    pairs = enumerate(zip(layout, leaves, strict=True))
    return tuple(i for i, (leaf, value) in pairs if leaf.role is role and isinstance(value, torch.Tensor))


_kinds: dict[Hashable, int] = {}


def _intern(kind: Hashable) -> int:
    """A small number for a kind, so that the loop never hashes its nested tuples again."""
    return _kinds.setdefault(kind, len(_kinds))


class _ItemLeaves(list[Any]):
    """Marks the leaves of a call whose rows are items of lists (Z-Image)."""


def _primary(named: dict[str, Any]) -> torch.Tensor | list[torch.Tensor]:
    """The argument that says how many rows a call has: the first batched tensor, or the first list of tensors."""
    for value in named.values():
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            return value
        if type(value) is list and value and all(isinstance(item, torch.Tensor) for item in value):
            return value
    raise UnfusableError("no argument has rows")


def _positions(tensor: torch.Tensor) -> int:
    """Positions (tokens, latent pixels) over all rows: [rows, tokens, channels] or [rows, channels, ...]."""
    if tensor.ndim == 2:
        return tensor.numel() if not tensor.is_floating_point() else tensor.shape[0]
    channels = tensor.shape[-1] if tensor.ndim == 3 else tensor.shape[1]
    return tensor.numel() // max(channels, 1)


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
