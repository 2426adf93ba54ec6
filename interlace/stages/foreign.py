"""vLLM-Omni's deploy files (`stages:` with flat keys) in our words: one table of their keys.

There the model comes from the command line and the topology from the model; here a model of diffusers is one stage,
whatever it is made of, so such a file has one stage for it, or says of each stage its `stage_type` and `model`. Three
stages that say neither are the parts of an omni-modal model, in their order.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.extras import NAMES
from interlace.models.places import model_folder
from interlace.stages.config import LOAD_OPTIONS, OmniStageConfig
from interlace.stages.language.config import AREngineArgs, RemoteEngineArgs
from interlace.stages.omni.config import PARTS
from interlace.stages.omni.families import is_omni

logger = logging.getLogger("interlace.stages")
Value = Any  # of a key in a file

_STAGE = frozenset(
    {field.name for field in fields(OmniStageConfig)} | {"model_path", "runtime", "devices", "num_replicas"}
    | {"parallel_config"}
)  # fmt: skip
_ENGINE = frozenset(
    {field.name for kind in (EngineConfig, AREngineArgs, RemoteEngineArgs) for field in fields(kind)}
    | {*LOAD_OPTIONS, *NAMES}
)
_RENAMED = {
    "gpu_memory_utilization": "memory_utilization",
    "max_tokens": "max_model_len",
}
_SO_ANYWAY = frozenset({
    "trust_remote_code", "enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "async_chunk",
    "async_scheduling", "distributed_executor_backend", "max_num_batched_tokens", "model_stage", "engine_output_type",
    "final_output", "final_output_type", "input_sources", "is_comprehension", "worker_cls", "worker_type",
    "scheduler_cls", "hf_config_name", "model_arch", "skip_mm_profiling", "subtalker_sampling_params", "connectors",
    "edges", "platforms", "input_connectors", "output_connectors", "disable_log_stats",
    "load_format", "active_stream_window", "model_runner", "mm_processor_cache_gb", "compilation_config",
    "requires_multimodal_data", "pipeline", "session_mode", "omni_kv_config", "moe_backend",
    "linear_backend", "enable_flashinfer_autotune", "max_cudagraph_capture_size",
})  # fmt: skip
_ONE = {
    "tensor_model_parallel_size": "say num_replicas, or parallel_config with ulysses_degree or rows_degree",
    "tensor_parallel_size": "say num_replicas, or parallel_config with ulysses_degree or rows_degree",
    "pipeline_parallel_size": "it computes with activations of the step before; say num_replicas",
    "data_parallel_size": "say num_replicas",
    "sequence_parallel_size": "say parallel_config: {ulysses_degree: N}",
}
_REFUSED = {
    "custom_process_input_func": "say handoff: module:function",
    "vae_use_slicing": "use --enable-vae-slicing",
    "vae_use_tiling": "use --enable-vae-tiling",
    "base_config": "files are whole here; write its keys into this one",
    "quantization": "say quantize, such as torchao:int8wo",
    "custom_voice_dir": "voices are a model's own here",
    "duplex_session": "sessions that talk both ways at once are not offered",
    "cache_backend": "say cache_type: step_cache or first_block_cache",
    "cache_config": "say cache_threshold",
    "diffusion_attention_backend": "use --attention-backend",
    "diffusion_attention_config": "use --attention-backend",
    "env": "set it in the environment of the server",
}
_NEITHER: tuple[Value, ...] = (None, False, [], {}, "")  # values that ask for nothing


def is_foreign(values: Mapping[str, Value]) -> bool:
    """Whether a file has their shape rather than ours."""
    return "stages" in values and "stage_args" not in values


def in_our_keys(values: Mapping[str, Value], model: str | None) -> dict[str, Value]:
    """The file with `stage_args`. `model` is what the command line names, for stages that name none.

    Raises `InvalidRequestError` for what has no counterpart; its `param` is the key.
    """
    wide = {name: value for name, value in values.items() if name != "stages"}
    common: dict[str, Value] = {}
    for name, value in wide.items():
        _sort(name, value, common)
    stages = values["stages"]
    if not isinstance(stages, list) or not stages:
        raise InvalidRequestError(f"stages is {stages!r}; expected a list of stages", "stages")
    if _are_parts(stages, model):
        return {"stage_args": [_part(*one, common) for one in zip(stages, PARTS, strict=True)]}
    if len(stages) > 1 and not all(isinstance(one, Mapping) and "stage_type" in one for one in stages):
        raise InvalidRequestError(
            f"{len(stages)} stages say no stage_type and model: here a model of diffusers is one stage, so leave one, "
            "or say of each stage_type: ar or diffusion, and model",
            "stages",
        )
    return {"stage_args": [_stage(one, common, model) for one in stages]}


def _are_parts(stages: Sequence[Value], model: str | None) -> bool:
    """Whether stages that say no type are an omni-modal model's parts: as many, and the model, where it is a folder, is
    one."""
    if len(stages) != len(PARTS) or not all(isinstance(one, Mapping) and "stage_type" not in one for one in stages):
        return False
    return model is None or model_folder(model) is None or is_omni(model)


def _part(values: Mapping[str, Value], part: str, common: Mapping[str, Value]) -> Value:
    """A stage as one that names its part; the model is the first one's, or the command line's."""
    own, args = _own_and_args(values, common)
    return {"model_stage": values.get("model_stage", part), **own, "engine_args": args}


def _stage(values: Value, common: Mapping[str, Value], model: str | None) -> Value:
    if not isinstance(values, Mapping):
        return values  # refused where all stages are read
    own, args = _own_and_args(values, common)
    own.setdefault("stage_type", "diffusion")
    if model is not None and "model_path" not in own:
        own.setdefault("model", model)
    return {**own, "engine_args": args}


def _own_and_args(
    values: Mapping[str, Value], common: Mapping[str, Value]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """A stage's own keys, and those of its engine."""
    own: dict[str, Value] = {name: value for name, value in values.items() if name in _STAGE}
    args = {**common, **(own.pop("engine_args", None) or {})}
    for name, value in values.items():
        if name not in _STAGE:
            _sort(name, value, args)
    return own, args


def _sort(name: str, value: Value, args: dict[str, Value]) -> None:
    """Puts one of their keys where it belongs, if anywhere."""
    if name in _RENAMED or name in _ENGINE:
        args[_RENAMED.get(name, name)] = value
    elif name in _SO_ANYWAY or value in _NEITHER:
        if value not in _NEITHER:
            logger.info("deploy file: %s is so anyway, or has no meaning here", name)
    elif name in _ONE:
        if value != 1:
            raise InvalidRequestError(f"{name} is {value!r}: {_ONE[name]}", name)
    elif name in _REFUSED:
        raise InvalidRequestError(f"{name}: {_REFUSED[name]}", name)
    else:
        args[name] = value  # refused by name, with the nearest that there is
