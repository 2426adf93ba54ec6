"""One component of a pipeline (transformer, vae, text_encoder, ...) from a file, a directory or a hub id.

The class and the configuration are those of the pipeline that it goes into. Knows nothing of pipelines as a whole.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.places import ModelIndex

_WEIGHT_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".bin")
# What stands before the names of tensors in files that hold a text encoder beside other things.
_PREFIXES = (
    "text_encoder.",
    "text_encoder_2.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.t5xxl.transformer.",
)


def parse_components(pairs: Mapping[str, str] | list[str] | tuple[str, ...]) -> dict[str, str]:
    """`["vae=DIR", ...]` as {component: source}. Raises `InvalidRequestError`."""
    if isinstance(pairs, Mapping):
        return dict(pairs)
    found = {}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not equals or not name.strip() or not source.strip():
            raise InvalidRequestError(f"component is {pair!r}; expected NAME=FILE|DIR|ID, as in vae=./vae", "component")
        found[name.strip()] = source.strip()
    return found


def load_component(
    name: str, source: str, base: ModelIndex, dtype: torch.dtype, *, local_files_only: bool = False
) -> object:
    """The component `name` of the pipeline that `base` describes, from `source`.

    A `.gguf` file (kept quantised), a `.safetensors` file (in diffusers' or the original's names), a directory (of the
    component, or of a model that has one of that name), or a hub id. Raises `ModelLoadError`.
    """
    if name not in base.components:
        known = ", ".join(base.components)
        raise InvalidRequestError(f"{base.pipeline_class} has no component {name!r}; it has {known}", "component")
    kind = _class_of(base, name)
    path = Path(source).expanduser()
    try:
        if path.suffix.lower() == ".gguf":
            return _from_gguf(kind, path, base, name, dtype)
        if path.suffix.lower() in _WEIGHT_FILES:
            return _from_file(kind, path, base, name, dtype)
        options: dict[str, Any] = {"local_files_only": local_files_only}
        if issubclass(kind, torch.nn.Module):
            options["dtype" if kind.__module__.startswith("transformers") else "torch_dtype"] = dtype
        return _from_pretrained(kind, str(path) if path.is_dir() else source, name, options)
    except InvalidRequestError:
        raise
    except Exception as error:  # of the hub, safetensors and the classes: no common base
        words = " ".join(str(error).split())[:400]
        text = f"cannot load {name} ({kind.__name__}) from {source}: {words}"
        raise ModelLoadError(f"{text}; expected a .gguf or .safetensors file, a directory or a hub id") from error


def _from_pretrained(kind: type, place: str, name: str, options: dict[str, Any]) -> Any:
    """The component's own directory, or the one of that name in a model's directory."""
    folder = Path(place)
    if folder.is_dir():
        inner = folder / name
        return kind.from_pretrained(str(inner if inner.is_dir() else folder), **options)  # type: ignore[attr-defined]
    try:
        return kind.from_pretrained(place, subfolder=name, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return kind.from_pretrained(place, **options)  # type: ignore[attr-defined]


def _from_gguf(kind: type, path: Path, base: ModelIndex, name: str, dtype: torch.dtype) -> Any:
    """Kept in its quantised blocks, which each layer opens as it computes in `dtype`."""
    if importlib.util.find_spec("gguf") is None:
        raise InvalidRequestError("a .gguf file needs the package gguf; pip install interlace[quantize]", "component")
    if hasattr(kind, "from_single_file"):
        from diffusers import GGUFQuantizationConfig

        return kind.from_single_file(
            str(path),
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
            torch_dtype=dtype,
            **_config(base, name),
        )
    return kind.from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype)  # type: ignore[attr-defined]


def _from_file(kind: type, path: Path, base: ModelIndex, name: str, dtype: torch.dtype) -> Any:
    if not path.is_file():
        raise InvalidRequestError(f"there is no file {path}", "component")
    if hasattr(kind, "from_single_file"):
        return kind.from_single_file(str(path), torch_dtype=dtype, **_config(base, name))
    if not kind.__module__.startswith("transformers"):
        raise InvalidRequestError(f"{kind.__name__} can't be read from one file; give its directory", "component")
    weights = load_file(path)
    prefix = next((known for known in _PREFIXES if any(key.startswith(known) for key in weights)), "")
    weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    config = kind.config_class.from_pretrained(base.place, subfolder=name)  # type: ignore[attr-defined]
    model, told = kind.from_pretrained(  # type: ignore[attr-defined]
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
    )
    if told["missing_keys"]:
        lost = sorted(told["missing_keys"])
        raise InvalidRequestError(
            f"{path} lacks {len(lost)} of {kind.__name__}'s tensors, such as {lost[0]}", "component"
        )
    return model


def _config(base: ModelIndex, name: str) -> dict[str, str]:
    return {"config": base.place, "subfolder": name}


def _class_of(base: ModelIndex, name: str) -> type:
    library, class_name = base.components[name]
    try:
        module = importlib.import_module(library)
    except ImportError:
        module = importlib.import_module(f"diffusers.pipelines.{library}")
    found: type = getattr(module, class_name)
    return found
