"""What is measured, in which order, and how long each part may take. What matters first stands first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from interlace.bench.gpu.device import GpuTarget, MachineFacts
from interlace.bench.gpu.exact import ExactSide
from interlace.bench.gpu.families import FAMILIES
from interlace.bench.gpu.forwards import MODES, ForwardsSide
from interlace.bench.gpu.ways import WAYS, GpuWaySide
from interlace.bench.sides import Opener
from interlace.errors import InvalidRequestError

PARTS = ("machine", "exact", "load", "forwards", "lora")
Ask = Mapping[str, object]  # the arguments of one question, in the order of the call

STEP_CACHE = {"cache_type": "step_cache"}
_LARGE = ("flux.1-dev", "qwen-image")  # fewer requests, fewer turns
_FIRST = "flux.1-dev"  # of which everything is measured before the others


@dataclass(frozen=True)
class GpuSide:
    """A process with a model of its own, and what it is asked, in order."""

    name: str
    opener: Opener
    asks: Sequence[Ask] = ({},)


@dataclass(frozen=True)
class GpuPart:
    """Sides that belong together, opened one after the other. It is ended after `budget_s`, and not begun where fewer
    than `least_s` are left."""

    kind: str
    family: str
    budget_s: float
    sides: Sequence[GpuSide]
    least_s: float = 15.0

    @property
    def name(self) -> str:
        """exact/sdxl."""
        return f"{self.kind}/{self.family}" if self.family else self.kind


def plan(target: GpuTarget, families: Sequence[str], kinds: Sequence[str]) -> list[GpuPart]:
    """The parts of these kinds for these families. Raises `InvalidRequestError` for a name that is none."""
    for name, given, known in (("models", families, tuple(FAMILIES)), ("parts", kinds, PARTS)):
        if unknown := [one for one in given if one not in known]:
            text = f"{name} holds {', '.join(unknown)}; expected some of {', '.join(known)}"
            raise InvalidRequestError(text, name)
    chosen = [name for name in FAMILIES if name in families]
    parts = [_machine(target)]
    parts += [_exact(name, target) for name in chosen]
    for name in chosen:
        parts.append(_load(name, target))
        if name == _FIRST:
            parts += [_forwards(name, target), _lora(name, target)]
    parts += [_forwards(name, target) for name in chosen if name != _FIRST]
    return [part for part in parts if part.kind in (*kinds, "machine")]


def _machine(target: GpuTarget) -> GpuPart:
    return GpuPart("machine", "", 60.0, [GpuSide("device", partial(MachineFacts, target))])


def _exact(family: str, target: GpuTarget) -> GpuPart:
    asks = [{"size": "small"}]
    return GpuPart("exact", family, 60.0, [GpuSide("exact", partial(ExactSide, family, target), asks)])


def _load(family: str, target: GpuTarget) -> GpuPart:
    turns = 1 if family == "qwen-image" else 2
    both: list[Ask] = [{"workload": name, "turns": turns} for name in ("mixed", "uniform")]
    idle: list[Ask] = [{"workload": "mixed", "turns": 1, "profiled": True}]
    cache: list[Ask] = [{"workload": "uniform", "turns": turns, "profiled": False, "options": STEP_CACHE}]
    asks = {"stock": both + idle, "static": both, "interlace": both + idle + cache}
    count = _num_requests(family, target)
    sides = [GpuSide(way, partial(GpuWaySide, family, way, target, count), asks[way]) for way in reversed(WAYS)]
    return GpuPart("load", family, 130.0 if family in _LARGE else 90.0, sides, least_s=30.0)


def _num_requests(family: str, target: GpuTarget) -> int:
    if target.tiny:
        return 3
    return 8 if family in _LARGE else 12


def _forwards(family: str, target: GpuTarget) -> GpuPart:
    """Eager first, both sizes; then graphs; compiling takes the longest, and stays."""
    few, many = ((1, 2), (1, 2)) if target.tiny else ((1, 2, 4), (1, 2, 4, 8))
    eager = [_forward("denoiser", "eager", size, rows) for size in ("small", "large")
             for rows in (many if size == "small" else few)]  # fmt: skip
    vae = [_forward("vae", "eager", "large", rows) for rows in few[:2]]
    faster = [
        _forward("denoiser", mode, "small", rows) for mode in MODES[1:] for rows in few[: 1 if target.tiny else None]
    ]
    side = GpuSide("forwards", partial(ForwardsSide, family, target), [*eager, *vae, *faster])
    return GpuPart("forwards", family, 110.0, [side], least_s=25.0)


def _forward(module: str, mode: str, size: str, rows: int) -> Ask:
    return {"module": module, "mode": mode, "size": size, "rows": rows}


def _lora(family: str, target: GpuTarget) -> GpuPart:
    """Each request with one of four adapters: mixed in one forward, only equal ones together, stock with
    `set_adapters`."""
    count = _num_requests(family, target)
    ways: dict[str, tuple[str, dict[str, object]]] = {
        "mixed": ("interlace", {}),
        "apart": ("interlace", {"mix_adapters": False}),
        "switched": ("stock", {}),
    }
    sides = []
    for name, (way, options) in ways.items():
        ask: Ask = {"workload": "lora", "turns": 2, "profiled": False, "options": options}
        sides.append(GpuSide(name, partial(GpuWaySide, family, way, target, count), [ask]))
    return GpuPart("lora", family, 90.0, sides, least_s=30.0)
