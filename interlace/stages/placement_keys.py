"""The keys by which vLLM-Omni's deploy files say where a stage runs, as a stage's own: devices, copies, ranks."""

from collections.abc import Mapping
from typing import Any

from interlace.engine.group.config import GroupConfig
from interlace.errors import InvalidRequestError
from interlace.stages.config import build

_SAME = {"num_replicas": "replicas"}
_HARMLESS = ("process", "requires_multimodal_data")  # of `runtime`: every stage that wants a process has one
_DEGREES = {
    "ulysses_degree": "ulysses_degree",
    "ring_degree": "ring_degree",
    "rows_degree": "rows_degree",
    "cfg_parallel_size": "rows_degree",
    "timeout_s": "timeout_s",
}
_NOT_HERE = {
    "pipeline_parallel_size": "PipeFusion computes with activations of the step before",
    "tensor_parallel_size": "use ulysses_degree or rows_degree, which leave a model's layers whole",
    "vae_patch_parallel_size": "large pictures are decoded in tiles where memory asks for it",
}


def as_own(values: Mapping[str, object]) -> dict[str, object]:
    """A stage's keys with those of `runtime` and the like as Interlace calls them. Raises `InvalidRequestError`."""
    own = dict(values)
    runtime = own.pop("runtime", None) or {}
    if not isinstance(runtime, Mapping):
        raise InvalidRequestError(f"runtime is {runtime!r}; expected keys such as devices and num_replicas", "runtime")
    for name, value in runtime.items():
        if name not in ("devices", *_SAME, *_HARMLESS):
            raise InvalidRequestError(f"runtime has an unknown key {name!r}; expected devices, num_replicas", name)
        if name not in _HARMLESS:
            own.setdefault(name, value)
    for name, ours in _SAME.items():
        if name in own:
            own[ours] = own.pop(name)
    if "devices" in own:
        own["device"] = _devices(own.pop("devices"))
    args = own.get("engine_args")
    parallel = own.pop("parallel_config", None)
    if isinstance(args, Mapping) and "parallel_config" in args:
        parallel = args["parallel_config"] if parallel is None else parallel
        own["engine_args"] = {name: value for name, value in args.items() if name != "parallel_config"}
    if parallel is not None:
        own["parallel"] = parallel_of(parallel)
    return own


def parallel_of(values: object) -> GroupConfig:
    """`parallel_config:` as a group. Raises `InvalidRequestError` for what Interlace doesn't do, by name."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"parallel_config is {values!r}; expected keys such as ulysses_degree",
                                  "parallel_config")  # fmt: skip
    own: dict[str, Any] = {}
    for name, value in values.items():
        if name in _NOT_HERE:
            if value not in (None, 1):
                raise InvalidRequestError(f"{name} is {value}: {_NOT_HERE[name]}", str(name))
        else:
            own[_DEGREES.get(name, str(name))] = value
    return build(GroupConfig, own, "parallel_config")


def _devices(value: Any) -> Any:
    """`"0,1"`, 0 or [0, 1] as cuda:0, cuda:1; other names as they are."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    named = [str(part).strip() for part in parts if str(part).strip()]
    named = [f"cuda:{name}" if name.isdecimal() else name for name in named]
    return named[0] if len(named) == 1 else tuple(named)
