"""One paused call of a module's method: its arguments, what they mean row by row, and its signature.

Two calls with equal signatures may share a forward. Knows nothing of strands or scheduling.
"""

import inspect
import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from interlace.engine.calls.controls.keys import equal_parts
from interlace.engine.calls.digest import digest
from interlace.engine.calls.roles import Leaf, Role, Roles, Texts, UnfusableError, positions_of, primary_of
from interlace.engine.calls.rules import FROM_LATENTS, NESTED, TEXT_BUCKET
from interlace.engine.calls.tree import Skeleton, flatten, is_atom
from interlace.python.recent import Recent

if TYPE_CHECKING:
    from interlace.engine.caches.first_block import BlockMemory
    from interlace.engine.pipeline.variants.scales import Scales


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
    controls: _Hashed | None
    texts: Texts | None
    lengths: Hashable
    places: Hashable
    shared: tuple[int, ...]
    positions: tuple[int, ...]


_MAX_PLANS = 256  # of one method, in case that a constant differs in every call


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
    def of(cls, component: str, module: torch.nn.Module, method: str, run: Callable[..., object]) -> "Target":
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
    together; `requests` are those that it is made for, whose rows are equally many. `signature` is None when the call
    can't be shared, and `unfusable` says why. Calls whose texts are padded to share have one `signature` and different
    `lengths`.
    """

    __slots__ = (
        "adapters",
        "ambient",
        "args",
        "controls",
        "kind",
        "kwargs",
        "layout",
        "leaves",
        "lengths",
        "memory",
        "original",
        "places",
        "requests",
        "rows",
        "scales",
        "signature",
        "skeleton",
        "state",
        "target",
        "texts",
        "tokens",
        "unfusable",
        "views",
        "wears",
    )  # fmt: skip

    def __init__(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], ambient: Hashable) -> None:
        self.target, self.args, self.kwargs, self.ambient = target, args, _nested(target.module, kwargs), ambient
        self.adapters: tuple[tuple[str, float], ...] | None = None  # with weights; None: as the module's owner has it
        self.rows, self.tokens, self.requests = 1, 1, 1
        self.leaves: list[Any] = []
        self.layout: tuple[Leaf, ...] = ()
        self.skeleton: Skeleton = None
        self.kind: Hashable = None
        self.signature: Hashable = None
        self.controls: Hashable = None  # what else must be equal of calls that have something from a ControlNet
        self.original: ModuleCall | None = None  # of a call that was brought into step with others: as it was
        self.texts: Texts | None = None
        self.lengths: Hashable = None  # of texts and pictures, which may differ within a signature
        self.places: Hashable = None  # where the image tokens are, and how many
        self.memory: BlockMemory | None = None  # of a first block cache
        self.wears: Hashable = None  # the request's own changes to the module: equal, or the calls don't share
        self.scales: Scales | None = None  # of IP-Adapters, each row's own
        self.state: Hashable = None  # which changes these are, and the owner's so far: what was verified holds for them
        self.views: Mapping[int, DiffusionPipeline] | None = None  # what its request has in the place of pipelines
        self.unfusable = ""
        try:
            self._analyse()
        except UnfusableError as reason:
            self.unfusable = str(reason)

    def stop(self, value: object) -> bool:
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
            if leaf.name in FROM_LATENTS:
                continue
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
    def prefills(self) -> bool:
        """Whether it reads a text into a key-value cache, before the text is continued token by token."""
        return self.tokens > self.rows and any(leaf.role is Role.CACHE for leaf in self.layout)

    @property
    def _has_items(self) -> bool:
        return isinstance(self.leaves, _ItemLeaves)

    def _analyse(self) -> None:
        if self.target.method == "generate":
            raise UnfusableError("generation keeps state between its forwards")
        named = self.named
        if len(self.args) > len(self.target.names):
            raise UnfusableError("more positional arguments than the method names")
        primary = primary_of(named)
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
        self.controls = plan.controls
        contents = [digest(self.leaves[i], "shared") for i in plan.shared]
        self.signature = (plan.signature, *contents) if contents else plan.signature
        self.places = (plan.places, *(digest(self.leaves[i], "positions") for i in plan.positions))
        self.lengths = (plan.lengths, self.places)

    def _plan(self, named: dict[str, Any], primary: torch.Tensor | list[torch.Tensor], bounds: list[int]) -> _Plan:
        """`bounds`: where in the leaves those of each argument begin and end."""
        if isinstance(primary, list):
            self.tokens = sum(item.numel() // max(item.shape[0], 1) for item in primary)
        else:
            self.rows, self.tokens = primary.shape[0], positions_of(primary)
        if self.rows == 0:
            raise UnfusableError("no rows")
        class_name = type(self.target.module).__name__
        roles = Roles(self.target.module, named, self.rows)
        self.texts = roles.texts
        layout, keys = [], []  # type: list[Leaf], list[Hashable]
        lengths, places = [], []  # type: list[Hashable], list[Hashable]
        for name, (start, end) in zip(named, itertools.pairwise(bounds), strict=True):
            for leaf in self.leaves[start:end]:
                role, key = roles.of(name, leaf)
                layout.append(role)
                keys.append(key)
                if role.role is Role.POSITIONS:
                    places.append((leaf.dtype, leaf.shape) if isinstance(leaf, torch.Tensor) else leaf)
                elif (length := roles.length(role, leaf)) is not None:
                    lengths.append(length)
        own, controls = equal_parts(self.target.module, self.skeleton, named, keys, bounds)
        return _Plan(
            self.rows,
            self.tokens,
            tuple(layout),
            self.skeleton,
            _intern((class_name, self.target.method, self.skeleton, self.ambient, tuple(layout))),
            _Hashed((id(self.target.module), self.target.method, self.ambient, *own)),
            None if controls is None else _Hashed(controls),
            self.texts,
            self.texts and self.texts.length,
            (*places, *lengths),
            _tensors_of(Role.SHARED, layout, self.leaves),
            _tensors_of(Role.POSITIONS, layout, self.leaves),
        )


def _nested(module: torch.nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    name = NESTED.get(type(module).__name__)
    value = None if name is None else kwargs.get(name)
    if name is None or not isinstance(value, list) or not all(isinstance(item, tuple) for item in value):
        return kwargs
    return {**kwargs, name: [[item] for item in value]}


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


_kinds: Recent[Hashable, int] = Recent(4096)  # one that was forgotten gets another number, and is verified anew
_numbers = itertools.count()


def _intern(kind: Hashable) -> int:
    """A small number for a kind, so that the loop never hashes its nested tuples again."""
    number = _kinds.get(kind)
    if number is None:
        number = _kinds[kind] = next(_numbers)
    return number


class _ItemLeaves(list[Any]):
    """Marks the leaves of a call whose rows are items of lists (Z-Image)."""
