"""The parts of an omni-modal model as deploy files name them, one stage each, as the one stage that they are here.

Thoughts and codes go from part to part token by token, which is no handoff between stages. No torch.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from interlace.checks import SPEECH_FIELDS
from interlace.errors import InvalidRequestError
from interlace.request import ARSamplingParams, fields_of
from interlace.stages.omni.config import PARTS

logger = logging.getLogger("interlace.stages")

_PLACING = ("device", "replicas")
_PART_ARGS = ("max_num_seqs", "memory_budget", "memory_utilization", "kv_cache_gib")
_RENAMED = {"gpu_memory_utilization": "memory_utilization", "max_batch_size": "max_num_seqs"}
_STAGE_ARGS = ("dtype", "revision", "local_files_only", "max_model_len", "system_prompt", "prefix_cache_gib", "voice")
# What vLLM-Omni's files say of its own insides, and what is so anyway.
_THEIRS = frozenset(
    {"model_arch", "worker_type", "worker_cls", "scheduler_cls", "enforce_eager", "trust_remote_code",
     "engine_output_type", "enable_prefix_caching", "hf_config_name", "engine_input_source", "final_output",
     "final_output_type", "is_comprehension", "custom_process_input_func", "max_num_batched_tokens",
     "distributed_executor_backend", "async_scheduling", "stage_type", "input_modalities", "output_modalities",
     "stage_id"}
)  # fmt: skip


def names_parts(stages: Sequence[object]) -> bool:
    """Whether a deploy file's stages are parts of an omni-modal model."""
    return any(isinstance(one, Mapping) and _part_of(one) is not None for one in stages)


def one_stage(stages: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The parts' stages as one stage's keys and values.

    Raises `InvalidRequestError` whose `param` is the place of the stage and the key, such as `1.replicas`.
    """
    found = [_part_of(one) if isinstance(one, Mapping) else None for one in stages]
    if found != list(PARTS):
        place = next((i for i, part in enumerate(found) if i >= len(PARTS) or part != PARTS[i]), len(found) - 1)
        raise InvalidRequestError(
            f"the stages' model_stage are {', '.join(map(str, found))}; expected {', '.join(PARTS)} in this order and "
            "no other stage",
            f"{place}.model_stage",
        )
    model = stages[0].get("model")
    made: dict[str, Any] = {"stage_type": "omni", "model": model, "engine_args": {}}
    ignored: set[str] = set()
    parts = made["engine_args"]["parts"] = {}
    for place, (name, stage) in enumerate(zip(PARTS, stages, strict=True)):
        if stage.get("model", model) != model:
            text = f"{name}'s model is {stage['model']!r}, the thinker's {model!r}; expected one model for all three"
            raise InvalidRequestError(text, f"{place}.model")
        parts[name] = _read(place, name, stage, made, ignored)
    if ignored:
        logger.warning("the deploy file's %s say nothing to Interlace and are left out", ", ".join(sorted(ignored)))
    return made


def _part_of(stage: Mapping[str, Any]) -> str | None:
    args = stage.get("engine_args")
    return stage.get("model_stage") or (args.get("model_stage") if isinstance(args, Mapping) else None)


def _read(place: int, name: str, stage: Mapping[str, Any], made: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """One part's own keys; what holds for the whole goes to `made`."""
    own: dict[str, Any] = {}
    args = stage.get("engine_args") or {}
    top = {key: value for key, value in stage.items() if key not in ("engine_args", "model", "model_stage")}
    for given, value in [*top.items(), *args.items()]:
        key = _RENAMED.get(given, given)
        if key in _PLACING or key in _PART_ARGS:
            own[key] = value
        elif key == "default_sampling_params":
            _sampling(place, name, value, made, ignored)
        elif key in _STAGE_ARGS or (key == "speech" and name == "talker"):
            made["engine_args"].setdefault(key, value)
        elif key == "max_in_flight" and name == "thinker":
            made[key] = value
        elif key in _THEIRS:
            ignored.add(key)
        elif key != "model_stage":
            known = ", ".join((*_PLACING, *_PART_ARGS, *_STAGE_ARGS))
            raise InvalidRequestError(
                f"{name} has an unknown key {given!r}; expected some of {known}", f"{place}.{given}"
            )
    return own


def _sampling(place: int, name: str, given: Any, made: dict[str, Any], ignored: set[str]) -> None:
    if not isinstance(given, Mapping):
        text = f"default_sampling_params is {given!r}; expected keys with values"
        raise InvalidRequestError(text, f"{place}.default_sampling_params")
    values = {key: value for key, value in given.items() if not (key == "top_k" and value == -1)}  # theirs for: all
    known = {"thinker": fields_of(ARSamplingParams), "talker": SPEECH_FIELDS, "code2wav": frozenset()}[name]
    ignored |= {f"default_sampling_params: {key}" for key in values if key not in known}
    own = {key: value for key, value in values.items() if key in known}
    if name == "thinker":
        made["default_sampling_params"] = own
    elif name == "talker":
        if own.get("temperature") == 0:  # theirs for: always the likeliest
            del own["temperature"]
            own["do_sample"] = False
        made["engine_args"]["speech"] = own
