"""The adapters (LoRA) of one pipeline: loaded once through diffusers, by name, and never half.

Knows files and peft's layers; knows nothing of requests. Loading leaves the pipeline's own active adapters as they are.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.peft_utils import delete_adapter_layers, recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from interlace.engine.adapters.layers import AdapterLayers
from interlace.errors import InvalidRequestError
from interlace.models.adapters.files import file_hash, num_layers
from interlace.models.adapters.lycoris import is_lycoris, load_lycoris

logger = logging.getLogger("interlace.models")


@dataclass(frozen=True)
class Lora:
    """A loaded adapter. `components` are the parts of the pipeline that it has weights in."""

    name: str
    path: str
    sha256: str
    num_bytes: int
    components: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class LoraFile:
    """What an adapter's file holds."""

    name: str
    path: Path
    sha256: str
    tensors: Mapping[str, torch.Tensor]


def load_lora(pipeline: DiffusionPipeline, file: LoraFile, called: str | None = None) -> Lora:
    """Put an adapter beside the pipeline's weights, without making it active; there it is `called` so.

    Raises `InvalidRequestError` with the reason, and leaves the pipeline as it was, where the file is for another
    family.
    """
    name, tensors = file.name, file.tensors
    inner = called or name
    if not hasattr(pipeline, "load_lora_weights"):
        raise InvalidRequestError(f"lora {name!r}: {type(pipeline).__name__} takes no adapters", "lora")
    before = _active(pipeline)
    try:
        with _present_peft_will_do():
            if is_lycoris(tensors):
                load_lycoris(pipeline, tensors, inner)
            else:
                pipeline.load_lora_weights(dict(tensors), adapter_name=inner)
        layers = {component: found for component, found in _layers(pipeline).items() if inner in found.names}
        _check_fit(name, inner, tensors, layers)
    except Exception as error:  # of diffusers, peft and torch: no common base
        remove_lora(pipeline, inner)
        words = " ".join(str(error).split())[:400]
        text = f"lora {name!r}: {file.path.name} doesn't fit {type(pipeline).__name__}: {words}"
        raise InvalidRequestError(text, "lora") from error
    finally:
        _activate(pipeline, before)
    parameters = {id(p): p for found in layers.values() for p in _parameters(found, inner)}
    num_bytes = sum(p.nbytes for p in parameters.values())
    return Lora(name, str(file.path), file.sha256, num_bytes, tuple(layers))


def read_lora(name: str, path: Path, sha256: str | None = None) -> LoraFile:
    """A file, whose hash may be known. Raises `InvalidRequestError` for one that is broken or holds no adapter."""
    try:
        tensors = load_file(path)
    except Exception as error:  # of safetensors and the file system: no common base
        raise InvalidRequestError(f"lora {name!r}: can't read {path.name}: {error}", "lora") from error
    if not any("lora" in key.lower() or ".lokr_" in key or ".hada_" in key for key in tensors):
        shown = ", ".join(list(tensors)[:2]) or "nothing"
        raise InvalidRequestError(f"lora {name!r}: {path.name} holds no adapter; it holds {shown}, ...", "lora")
    return LoraFile(name, path, sha256 or file_hash(path), tensors)


def _check_fit(name: str, inner: str, tensors: Iterable[str], layers: Mapping[str, AdapterLayers]) -> None:
    """diffusers leaves out what it finds no place for, and says nothing; with half of it gone it is no adapter."""
    wanted = num_layers(tensors)
    placed = sum(len(found.of(inner)) for part, found in layers.items() if not part.startswith("text_encoder"))
    if not layers or 2 * placed < wanted:
        raise ValueError(f"{placed} of its {wanted} layers have a place; it is for another family of models")
    if placed < wanted:
        logger.warning("lora %r: %d of its %d layers have no place in this model", name, wanted - placed, wanted)


def remove_lora(pipeline: DiffusionPipeline, name: str) -> None:
    """Take an adapter out, wherever it is; with the last one the layers are the model's own again."""
    for part in _components(pipeline).values():
        layers = AdapterLayers(part)
        if not layers.layers:
            continue
        if name in layers.names or name in getattr(part, "peft_config", {}):
            delete_adapter_layers(part, name)
            getattr(part, "peft_config", {}).pop(name, None)
        if not AdapterLayers(part).names:
            recurse_remove_peft_layers(part)
            if hasattr(part, "peft_config"):
                del part.peft_config
            setattr(part, "_hf_peft_config_loaded", False)  # noqa: B010 - no module's own attribute


def _components(pipeline: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _layers(pipeline: DiffusionPipeline) -> dict[str, AdapterLayers]:
    return {name: AdapterLayers(part) for name, part in _components(pipeline).items()}


def _active(pipeline: DiffusionPipeline) -> dict[str, Sequence[str]]:
    """The adapters that its owner has active, by component."""
    found: dict[str, Sequence[str]] = {}
    for name, layers in _layers(pipeline).items():
        active = [one for layer in layers.layers if not layer.disable_adapters for one in layer.active_adapters]
        found[name] = list(dict.fromkeys(active))
    return found


def _activate(pipeline: DiffusionPipeline, active: Mapping[str, Sequence[str]]) -> None:
    """Make these the active ones; peft makes the first adapter of a model active by itself."""
    for name, layers in _layers(pipeline).items():
        for layer in layers.layers:
            layer._active_adapter = list(active.get(name, ()))


def _parameters(layers: AdapterLayers, name: str) -> Iterator[torch.nn.Parameter]:
    for layer in layers.of(name):
        yield from _own_parameters(layer, name)


def _own_parameters(layer: BaseTunerLayer, name: str) -> Iterator[torch.nn.Parameter]:
    for part in layer.adapter_layer_names:
        held: Any = getattr(layer, part, {})
        if name in held:
            value = held[name]
            yield from value.parameters() if isinstance(value, torch.nn.Module) else (value,)


@contextmanager
def _present_peft_will_do() -> Iterator[None]:
    """transformers 5.24 asks for a later peft than there is before it loads an adapter into a text encoder.

    What it calls of peft for that has been there since 0.17, which Interlace requires.
    """
    from transformers.integrations import peft as integration

    wanted = integration.MIN_PEFT_VERSION
    integration.MIN_PEFT_VERSION = "0.17.0"
    try:
        yield
    finally:
        integration.MIN_PEFT_VERSION = wanted
