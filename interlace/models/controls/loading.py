"""ControlNets, T2I-Adapters and IP-Adapters from files, directories and hub ids, and pipelines that run them."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from interlace.engine.pipeline.variants.owner import stock_class
from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.controls.families import FAMILIES, ControlFamily

_FILES = (".safetensors", ".sft", ".bin", ".pth")


def family_of(pipeline: DiffusionPipeline) -> ControlFamily:
    """Raises `InvalidRequestError` for a pipeline that diffusers has no ControlNets for."""
    name = stock_class(pipeline).__name__
    if name not in FAMILIES:
        text = f"controlnet: diffusers runs none with {name} that Interlace knows of; known are {', '.join(FAMILIES)}"
        raise InvalidRequestError(text, "controlnet")
    return FAMILIES[name]


def load_control(
    name: str, place: str, pipeline: DiffusionPipeline, *, local_files_only: bool = False
) -> torch.nn.Module:
    """A ControlNet or a T2I-Adapter for `pipeline`, on its device and in its precision.

    A directory, a hub id, or a ControlNet's file. Raises `ModelLoadError`, or `InvalidRequestError` for one of another
    family.
    """
    family, path = family_of(pipeline), Path(place).expanduser()
    source = str(path) if path.exists() else place
    try:
        if path.suffix in _FILES:
            kind = getattr(diffusers, family.controlnet)
            loaded = kind.from_single_file(source, torch_dtype=pipeline.dtype)
        else:
            kind = _kind_of(name, source, family, local_files_only)
            loaded = kind.from_pretrained(source, torch_dtype=pipeline.dtype, local_files_only=local_files_only)
    except InvalidRequestError:
        raise
    except Exception as error:  # of the hub, safetensors and the classes: no common base
        words = " ".join(str(error).split())[:400]
        text = f"controlnet {name!r}: cannot load {place}: {words}; expected a directory, a hub id or a file"
        raise ModelLoadError(text) from error
    return loaded.to(pipeline.device).eval()


def _kind_of(name: str, source: str, family: ControlFamily, local_files_only: bool) -> Any:
    """What its own configuration says that it is."""
    config = getattr(diffusers, family.controlnet).load_config(source, local_files_only=local_files_only)
    found = str(config.get("_class_name"))
    usable = [one for one in (family.controlnet, family.adapter, family.union) if one is not None]
    if found not in usable:
        text = f"controlnet {name!r}: {source} is a {found}; this model takes {' or '.join(usable)}"
        raise InvalidRequestError(text, "controlnet")
    return getattr(diffusers, found)


def num_modes(net: torch.nn.Module) -> int | None:
    """Kinds of pictures that a ControlNet tells apart by their number; None for one of a single kind."""
    config: Any = net.config
    found = config.get("num_control_type") if type(net).__name__ == "ControlNetUnionModel" else config.get("num_mode")
    return None if found is None else int(found)


def sibling(pipeline: DiffusionPipeline, class_name: str, **parts: object) -> DiffusionPipeline:
    """A pipeline of another class over the same parts. Unlike `from_pipe` it casts none of them."""
    kind: Any = getattr(diffusers, class_name)
    expected, optional = kind._get_signature_keys(kind)
    takes = inspect.signature(kind.__init__).parameters
    own = {name: part for name, part in pipeline.components.items() if name in expected and name in takes}
    settings = {name: pipeline.config[name] for name in optional if name in pipeline.config}
    made: DiffusionPipeline = kind(**{**settings, **own, **parts})
    made.set_progress_bar_config(disable=True)
    return made


def load_ip_adapters(pipeline: Any, places: dict[str, str], *, local_files_only: bool = False) -> None:
    """All of them, in order, with scale 0. Raises `InvalidRequestError` or `ModelLoadError`."""
    if not hasattr(pipeline, "load_ip_adapter"):
        text = f"ip_adapter: {stock_class(pipeline).__name__} takes no IP-Adapters"
        raise InvalidRequestError(text, "ip_adapter")
    files = [_parted(name, place) for name, place in places.items()]
    folders, inner, names = (list(column) for column in zip(*files, strict=True))
    options: dict[str, Any] = {"weight_name": names, "local_files_only": local_files_only}
    if "subfolder" in inspect.signature(pipeline.load_ip_adapter).parameters:
        options["subfolder"] = inner
    try:
        pipeline.load_ip_adapter(folders, **options, **_encoder(pipeline, folders[0], inner[0]))
    except Exception as error:  # of diffusers, safetensors and the hub: no common base
        words = " ".join(str(error).split())[:400]
        text = f"cannot load the IP-Adapters {', '.join(places)}: {words}"
        raise ModelLoadError(f"{text}; expected NAME=FILE, with an image_encoder from --component") from error
    pipeline.set_ip_adapter_scale(0.0 if len(places) == 1 else [0.0] * len(places))


def _parted(name: str, place: str) -> tuple[str, str, str]:
    """A file as diffusers wants it: a directory or a hub id, a folder in it, and the file's name."""
    path = Path(place).expanduser()
    if path.is_file():
        return str(path.parent), "", path.name
    parts = place.split("/")
    if not place.endswith(_FILES) or len(parts) < 3 or place.startswith((".", "/", "~")):
        text = f"ip_adapter {name!r}: there is no file {place}; expected one, or OWNER/NAME/FOLDER/FILE of the hub"
        raise InvalidRequestError(text, "ip_adapter")
    return "/".join(parts[:2]), "/".join(parts[2:-1]), parts[-1]


def _encoder(pipeline: Any, folder: str, inner: str) -> dict[str, Any]:
    """Where the picture encoder is to come from: nowhere, where the pipeline has one."""
    if isinstance(getattr(pipeline, "image_encoder", None), torch.nn.Module):
        return {}
    beside = Path(folder) / inner / "image_encoder"
    of_its_own = "image_encoder_pretrained_model_name_or_path"  # FLUX
    separate = of_its_own in inspect.signature(pipeline.load_ip_adapter).parameters
    if (separate or Path(folder).is_dir()) and not beside.is_dir():
        text = f"an IP-Adapter needs an image_encoder folder beside it in {folder}, or --component image_encoder=DIR|ID"
        raise InvalidRequestError(text, "ip_adapter")
    return {of_its_own: str(beside), "image_encoder_dtype": pipeline.dtype} if separate else {}
