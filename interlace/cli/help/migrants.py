"""Flags of vLLM-Omni and SGLang-Diffusion, in our words: one table.

Each is translated, left out because it asks for what is so anyway, or refused with what to use. `in_our_words` works on
the words of a command line, before its flags are read.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interlace.errors import InvalidRequestError

Words = list[str]


@dataclass(frozen=True)
class Foreign:
    """A flag of theirs. `becomes` makes our words of its value; `takes` says whether it has one."""

    name: str
    becomes: Callable[[str], Words]
    takes: bool | None = True  # None: it may have one
    says: str = ""  # what becomes of it, for the documentation


def in_our_words(words: Sequence[str]) -> Words:
    """A `serve` command line in our words, any other as it is. Raises `InvalidRequestError` for a flag of theirs that
    has no counterpart here."""
    if list(words[:1]) != ["serve"]:
        return list(words)
    done: Words = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*done, word, *left]
        flag, equals, value = word.partition("=")
        foreign = FOREIGN.get(flag.replace("_", "-")) if flag.startswith("--") else None
        if foreign is None:
            done.append(word)
            continue
        if not equals and foreign.takes is not False and left and not left[0].startswith("--"):
            value = left.pop(0)
        elif not equals and foreign.takes:
            raise InvalidRequestError(f"{flag} needs a value", flag.lstrip("-").replace("-", "_"))
        done += foreign.becomes(value)
    return list(dict.fromkeys(done)) if len(set(done)) < len(done) and _only_switches_double(done) else done


def _only_switches_double(words: Words) -> bool:
    """Several of their switches may stand for one of ours."""
    doubled = {word for word in words if words.count(word) > 1}
    return doubled <= {"--enable-cpu-offload"}


def _as(ours: str) -> Callable[[str], Words]:
    return lambda value: [ours, value]


def _switch(ours: str) -> Callable[[str], Words]:
    return lambda value: [] if value.lower() in ("false", "0") else [ours]


def _nothing(value: str) -> Words:
    return []


def _refuse(name: str, use: str) -> Callable[[str], Words]:
    def refuse(value: str) -> Words:
        raise InvalidRequestError(f"{name}: {use}", name.lstrip("-").replace("-", "_"))

    return refuse


def _only(name: str, fine: Sequence[str], use: str) -> Callable[[str], Words]:
    """Values that ask for what is so anyway are left out, others refused."""
    return lambda value: [] if value in fine else _refuse(f"{name} {value}", use)(value)


_CACHES = {"none": "none", "cache_dit": "first_block_cache", "tea_cache": "step_cache", "teacache": "step_cache"}


def _cache(value: str) -> Words:
    if value in _CACHES:
        return ["--cache-type", _CACHES[value]]
    expected = ", ".join(_CACHES)
    raise InvalidRequestError(f"--cache-backend is {value!r}; expected {expected}, or use --cache-type", "cache_type")


def _cache_config(value: str) -> Words:
    return [] if not _object("--cache-config", value) else _refuse("--cache-config", "use --cache-threshold")(value)


def _sampling(value: str) -> Words:
    """`{"num_inference_steps": 20}`, or the same by stage: `{"0": {...}}`."""
    given = _object("--default-sampling-params", value)
    values: dict[str, object] = {}
    for key, one in given.items():
        values |= one if isinstance(one, dict) else {key: one}
    ours = {"num_inference_steps": "--dit-steps", "guidance_scale": "--dit-guidance-scale"}
    other = sorted(values.keys() - ours.keys())
    if other:
        text = f"--default-sampling-params has {', '.join(other)}; expected {', '.join(ours)}: say others in requests"
        raise InvalidRequestError(text, "default_sampling_params")
    return [word for key, one in values.items() for word in (ours[key], str(one))]


def _origins(value: str) -> Words:
    try:
        origins = json.loads(value)
    except ValueError:
        origins = [value]
    return [word for origin in origins for word in ("--cors-origin", str(origin))]


def _object(name: str, value: str) -> dict[str, object]:
    try:
        found = json.loads(value)
    except ValueError as error:
        raise InvalidRequestError(f"{name} is no JSON: {error}", name.lstrip("-").replace("-", "_")) from error
    if not isinstance(found, dict):
        raise InvalidRequestError(f"{name} is {value[:60]!r}; expected a JSON object", name.lstrip("-"))
    return found


_RENAMED = {
    "--model-path": "--model",
    "--served-model-name": "--model-alias",
    "--batching-max-size": "--max-num-seqs",
    "--max-batch-size": "--max-num-seqs",
    "--batching-delay-ms": "--request-batch-max-wait-ms",
    "--diffusion-attention-backend": "--attention-backend",
    "--gpu-memory-utilization": "--memory-utilization",
    "--mem-fraction-static": "--memory-utilization",
    "--stage-configs-path": "--deploy-config",
    "--uvicorn-log-level": "--log-level",
    "--timeout-keep-alive": "--idle-timeout-s",
}
_SWITCHES = {
    "--vae-use-slicing": "--enable-vae-slicing",
    "--vae-use-tiling": "--enable-vae-tiling",
    "--vae-slicing": "--enable-vae-slicing",
    "--vae-tiling": "--enable-vae-tiling",
    "--enable-torch-compile": "--enable-compile",
    "--dit-cpu-offload": "--enable-cpu-offload",
    "--text-encoder-cpu-offload": "--enable-cpu-offload",
    "--image-encoder-cpu-offload": "--enable-cpu-offload",
    "--vae-cpu-offload": "--enable-cpu-offload",
}
_SO_ANYWAY = {  # whether it has a value
    "--enforce-eager": False,
    "--trust-remote-code": False,
    "--enable-lora": False,
    "--log-stats": False,
    "--disable-log-requests": False,
    "--disable-log-stats": False,
    "--pin-cpu-memory": None,
    "--stage-init-timeout": True,
    "--init-timeout": True,
    "--allowed-methods": True,
    "--allowed-headers": True,
}
_NO_COUNTERPART = {
    "--max-generated-image-size": "its pixels have no limit here; use --max-image-size with the longest side",
    "--max-model-len": "a drawing model has no such length; use --ar-max-tokens for a language model's stage",
    "--enable-layerwise-offload": "use --enable-cpu-offload",
    "--layerwise-num-gpu-layers": "use --enable-cpu-offload",
    "--dit-layerwise-offload": "use --enable-cpu-offload",
    "--lora-path": "use --lora NAME=PATH, and name it in a request's `lora`",
    "--lora-scale": 'give the scale in a request: "lora": {"name": ..., "scale": ...}',
    "--boundary-ratio": "give it in a request's extra_params",
    "--flow-shift": "give it in a request's extra_params",
    "--prompt-file-path": "use interlace t2i --prompts-file",
    "--worker-backend": "nothing is needed: replicas are processes (--num-gpus); this version has no Ray",
    "--ray-address": "this version has no Ray; start one server a machine behind a balancer",
    "--host-ip": "use --host",
}


def _table() -> dict[str, Foreign]:
    rows = [Foreign(name, _as(ours), says=f"`{ours}`") for name, ours in _RENAMED.items()]
    rows += [Foreign(name, _switch(ours), None, f"`{ours}`") for name, ours in _SWITCHES.items()]
    rows += [Foreign(name, _nothing, takes, "so anyway, or of no use") for name, takes in _SO_ANYWAY.items()]
    rows += [Foreign(name, _refuse(name, use), None, f"refused: {use}") for name, use in _NO_COUNTERPART.items()]
    tensor = "tensor parallelism is not offered; use --num-gpus for replicas"
    mode = "use --enable-compile, --optimize, --cache-type, --enable-cpu-offload"
    rows += [
        Foreign("--cache-backend", _cache, says="`--cache-type`"),
        Foreign("--cache-config", _cache_config, says="refused unless `{}`: use --cache-threshold"),
        Foreign("--default-sampling-params", _sampling, says="`--dit-steps`, `--dit-guidance-scale`"),
        Foreign("--allowed-origins", _origins, says="`--cors-origin`"),
        Foreign("--tp-size", _only("--tp-size", ("1",), tensor), says=f"1, else refused: {tensor}"),
        Foreign("--tensor-parallel-size", _only("--tensor-parallel-size", ("1",), tensor), says="as --tp-size"),
        Foreign("--performance-mode", _only("--performance-mode", ("auto",), mode), says=f"auto, else refused: {mode}"),
        Foreign(
            "--diffusion-load-format",
            _only("--diffusion-load-format", ("auto", "default", "diffusers"), "pipelines load through diffusers here"),
            says="diffusers, else refused",
        ),
    ]
    return {row.name: row for row in rows}


FOREIGN: dict[str, Foreign] = _table()
