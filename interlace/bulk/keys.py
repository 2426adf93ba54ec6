"""What an image depends on, as a digest: how a run knows whether the image that is there is the one it would make."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlace.bulk.rows import Job

_NOT_IN_THE_IMAGE = ("priority", "timeout_s", "num_images")
# Keys without these are older than these.
_IF_GIVEN = ("model_type", "prompt_enhance", "hold_guidance_after", "weights")


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


def request_key(job: Job, model: ModelId) -> str:
    """A digest of everything that an image depends on; equal keys, equal images."""
    wanted = {name: value for name, value in vars(job.sampling).items() if name not in _NOT_IN_THE_IMAGE}
    wanted |= vars(model) | {"prompt": job.prompt}
    for name in _IF_GIVEN:
        if wanted[name] is None:
            del wanted[name]
    if job.images:
        wanted["images"] = [source.key for source in job.images]
    text = json.dumps(wanted, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_other_inputs(job: Job, record: Mapping[str, Any]) -> bool:
    """Whether the pictures that an edit was made from have other bytes by now."""
    before = record.get("input_sha256") or []
    return len(before) != len(job.images) or any(
        source.has_changed(digest) for source, digest in zip(job.images, before, strict=True)
    )
