"""Loads a pipeline from a directory, a hub id or a built-in name, with the call arguments that the model prefers.

A model directory may hold an `interlace.json`: {"defaults": {pipeline class: {argument: value}}, "limits": {...},
"description": "..."}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.editing import EditModel
from interlace.models.glm import mend_glm_image
from interlace.models.optimize import Optimizations
from interlace.models.places import model_folder, pipeline_class_of, read_settings


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline, ready to run, and what its `interlace.json` says: default call arguments and limits on sizes."""

    name: str
    pipeline: DiffusionPipeline
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    all_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by pipeline class, this one's too


def load_model(
    model: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    pipeline_class: str | None = None,
    optimizations: Optimizations | None = None,
) -> LoadedModel:
    """Load `model` (a directory, a hub id, or a built-in name) onto `device`.

    The pipeline class comes from `model_index.json` unless `pipeline_class` names another. `dtype` defaults to
    bfloat16 on an accelerator and float32 on the CPU. Raises `ModelLoadError`, or `InvalidRequestError` for options.
    """
    source, preset = _resolve(str(model))
    chosen = _pipeline_class(pipeline_class or preset)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pipeline = chosen.from_pretrained(
            source,
            dtype=parse_dtype(dtype) or (torch.float32 if device == "cpu" else torch.bfloat16),
            variant=variant,
            revision=revision,
            local_files_only=local_files_only,
        )
    except Exception as error:
        hint = "expected a directory with a model_index.json, a hub id such as black-forest-labs/FLUX.1-dev, or 'demo'"
        raise ModelLoadError(f"cannot load model {str(model)!r}: {error}; {hint}") from error
    settings = read_settings(Path(source) / "interlace.json")
    pipeline = pipeline.to(device)
    if optimizations is not None:
        optimizations.apply(pipeline)
    return LoadedModel(
        name=str(model),
        pipeline=pipeline,
        defaults=settings.get("defaults", {}).get(type(pipeline).__name__, {}),
        limits=settings.get("limits", {}),
        description=settings.get("description", ""),
        all_defaults=settings.get("defaults", {}),
    )


def load_editor(model: str | Path, edit: EditModel, **options: Any) -> LoadedModel:
    """As `load_model`, by the pipeline of `edit` and with its defaults where the model has none of its own."""
    loaded = load_model(model, pipeline_class=edit.pipeline, **options)
    mend_glm_image(loaded.pipeline)
    return replace(loaded, defaults={**edit.defaults, **loaded.defaults})


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """`"bfloat16"` or `"bf16"` as torch's dtype. Raises `InvalidRequestError` for a name that is none."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    names = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
    found = getattr(torch, names.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidRequestError(f"dtype is {dtype!r}; expected float32, bfloat16 or float16", "dtype")
    return found


def _resolve(model: str) -> tuple[str, str | None]:
    """Where the files are, and the pipeline class that a built-in name stands for."""
    folder, pipeline_class = model_folder(model), pipeline_class_of(model)
    if folder and pipeline_class is None and not (folder / "model_index.json").exists():
        raise ModelLoadError(f"{folder} holds no model_index.json; expected a directory in diffusers' format")
    return str(folder or model), pipeline_class


def _pipeline_class(name: str | None) -> type[DiffusionPipeline]:
    if name is None:
        return DiffusionPipeline
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, DiffusionPipeline)):
        raise InvalidRequestError(
            f"pipeline_class is {name!r}; expected a pipeline of diffusers {diffusers.__version__}"
        )
    return found
