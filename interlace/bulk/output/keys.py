"""What an image depends on, as a digest: how a run knows whether the image that is there is the one it would make."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlace.adapters import from_prompt
from interlace.bulk.input.rows import Job
from interlace.bulk.output.weights import weights_digest
from interlace.extras import Extras
from interlace.models.adapters.files import AdapterHashes, own_sources

_NOT_IN_THE_IMAGE = ("priority", "timeout_s", "num_images")
# Keys without these are older than these.
_IF_GIVEN = ("model_type", "prompt_enhance", "hold_guidance_after", "weights", "extras", "lora", "sampler",
             "controlnet", "ip_adapter", "mask", "fps", "seconds", "flow_shift")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """Which weights, in which precision: a change of any makes other images."""

    model: str
    revision: str | None = None
    variant: str | None = None
    torch_dtype: str | None = None
    model_type: str | None = None  # what kind of editor it is, where the user says so
    prompt_enhance: str | None = None  # what rewrote the prompts
    weights: str | None = None  # what is in the models' files, where they lie on disk
    extras: str | None = None  # what was brought to it beside adapters, and what is in those files
    lora_syntax: bool = False
    adapters: AdapterHashes | None = None


def request_key(job: Job, model: ModelId) -> str:
    """A digest of everything that an image depends on; equal keys, equal images."""
    wanted = {name: value for name, value in vars(job.sampling).items() if name not in _NOT_IN_THE_IMAGE}
    wanted |= vars(model) | {"prompt": job.prompt, "lora": _adapters_of(job, model)}
    wanted["mask"] = None if job.mask is None else job.mask.key
    for name in ("controlnet", "ip_adapter"):
        wanted[name] = [one.plain(one.image.key) for one in wanted[name] or ()] or None
    del wanted["lora_syntax"], wanted["adapters"]
    for name in _IF_GIVEN:
        if wanted[name] is None:
            del wanted[name]
    if job.images:
        wanted["images"] = [source.key for source in job.images]
    if job.media:
        wanted["media"] = [[kind, source.key] for kind, source in job.media]
    text = json.dumps(wanted, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def brought(model: str, extras: Extras) -> dict[str, object]:
    """The part of a `ModelId` that says what was brought to a model."""
    adapters = ("lora", "lora_dir", "max_loras", "lora_syntax")
    others = {name: value for name, value in extras.set().items() if name not in adapters}
    if others:
        given = [text for name, value in others.items() if name != "quantize" for text in _texts(value)]
        sources = [text.partition("=")[2] or text for text in given]
        others["files"] = weights_digest(sources)
    has_adapters = bool(extras.lora or extras.lora_dir or extras.lora_syntax or own_sources(model))
    return {
        "extras": json.dumps(others, sort_keys=True) if others else None,
        "lora_syntax": extras.lora_syntax,
        "adapters": AdapterHashes(model, extras) if has_adapters else None,
    }


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _adapters_of(job: Job, model: ModelId) -> list[Any] | None:
    """The adapters of a job, with what is in their files."""
    choices = list(job.sampling.lora or ())
    if model.lora_syntax:
        choices += from_prompt(job.prompt)[1]
    hashes = model.adapters
    return [[one.name, one.scale, one.path, hashes and hashes.get(one.name)] for one in choices] or None


def has_other_inputs(job: Job, record: Mapping[str, Any]) -> bool:
    """Whether the pictures that an edit was made from have other bytes by now."""
    before = record.get("input_sha256") or []
    return len(before) != len(job.pictures) or any(
        source.has_changed(digest) for source, digest in zip(job.pictures, before, strict=True)
    )
