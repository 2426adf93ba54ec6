"""A checkpoint in one file as a pipeline: which class its tensors are for, and where its configuration comes from.

Knows nothing of devices, quantisation or defaults. The formats are those of diffusers' `from_single_file`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type
from safetensors import safe_open

from interlace.errors import ModelLoadError
from interlace.models.loading.components import load_component
from interlace.models.places import ModelIndex, read_index

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".gguf")
# What diffusers calls a checkpoint's type, and the pipeline that is made from such a file. Longest prefix first.
PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "instruct-pix2pix": "StableDiffusionInstructPix2PixPipeline",
    "upscale": "StableDiffusionUpscalePipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "playground-v2-5": "StableDiffusionXLPipeline",
    "xl_refiner": "StableDiffusionXLImg2ImgPipeline",
    "xl_inpaint": "StableDiffusionXLInpaintPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
    "flux-fill": "FluxFillPipeline",
    "flux-depth": "FluxControlPipeline",
    "flux-2-dev": "Flux2Pipeline",
    "chroma": "ChromaPipeline",
    "auraflow": "AuraFlowPipeline",
    "lumina2": "Lumina2Pipeline",
    "sana": "SanaPipeline",
    "hidream": "HiDreamImagePipeline",
    "z-image-turbo": "ZImagePipeline",
    "ltx-video": "LTXPipeline",
    "mochi-1-preview": "MochiPipeline",
    "hunyuan-video": "HunyuanVideoPipeline",
    "wan-t2v": "WanPipeline",
    "wan-i2v": "WanImageToVideoPipeline",
    "wan-vace": "WanVACEPipeline",
    "cosmos-1.0-t2w": "CosmosTextToWorldPipeline",
    "cosmos-2.0-t2i": "Cosmos2TextToImagePipeline",
}
_MISSING = re.compile(r"^(\w+) = (\w+)\.from_pretrained", re.MULTILINE)  # in diffusers' own message
_MAX_COMPONENTS = 8


class Checkpoint(NamedTuple):
    """What a file's tensors say: diffusers' name for the type, the pipeline class, the hub id of its configuration."""

    kind: str
    pipeline: str | None
    config: str


class _Tensor(NamedTuple):
    shape: tuple[int, ...]


def is_single_file(model: str | Path) -> bool:
    """Whether a model is named by a file of weights."""
    return Path(model).suffix.lower() in SUFFIXES and Path(model).expanduser().is_file()


def identify(path: Path) -> Checkpoint:
    """Look at the names and shapes of a file's tensors, without reading them. Raises `ModelLoadError`."""
    shapes = _shapes(path)
    try:
        kind = infer_diffusers_model_type(shapes)
    except (KeyError, IndexError, UnboundLocalError, AttributeError) as error:
        raise ModelLoadError(
            f"can't tell what {path} is: {error}; name its pipeline's class or configuration"
        ) from error
    if kind == "v1" and not any(name.startswith("model.diffusion_model.input_blocks") for name in shapes):
        kind = "unknown"  # diffusers' answer where it recognises nothing
    prefix = max((known for known in PIPELINES if kind.startswith(known)), key=len, default=None)
    config = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(kind, {}).get("pretrained_model_name_or_path", "")
    return Checkpoint(kind, PIPELINES[prefix] if prefix else None, config)


def load_single_file(
    path: Path,
    *,
    pipeline_class: str | None = None,
    config_from: str | None = None,
    components: Mapping[str, object] | None = None,
    dtype: torch.dtype,
    local_files_only: bool = False,
) -> DiffusionPipeline:
    """The pipeline in a file. `components` are parts that were loaded already.

    `config_from` is a directory or hub id of the same family, whose configuration is used; parts that the file lacks
    (text encoders, an autoencoder) are read from there too. Raises `ModelLoadError`.
    """
    index = read_index(config_from, local_files_only=local_files_only) if config_from else None
    if path.suffix.lower() == ".gguf":
        return _around(path, index, components or {}, dtype)
    found = identify(path)
    name = pipeline_class or found.pipeline or (index.pipeline_class if index else None)
    chosen = getattr(diffusers, name or "", None)
    if chosen is None or not hasattr(chosen, "from_single_file"):
        what = f"holds a {found.kind} checkpoint" if found.kind != "unknown" else "holds no checkpoint that is known"
        raise ModelLoadError(f"{path} {what}; expected one of a pipeline with from_single_file: name --config-from")
    given = dict(components or {})
    for _ in range(_MAX_COMPONENTS):
        try:
            return chosen.from_single_file(
                str(path),
                config=index.place if index else None,
                torch_dtype=dtype,
                local_files_only=local_files_only,
                **given,
            )
        except Exception as error:
            lacking = _MISSING.search(str(error))
            if lacking is None or lacking[1] in given:
                raise _unloadable(path, chosen, found, index, error) from error
            if index is None or not index.holds(lacking[1]):
                text = f"{path} holds no {lacking[1]} ({lacking[2]}); give --component {lacking[1]}=FILE|DIR|ID"
                raise ModelLoadError(f"{text}, or a --config-from that holds its weights") from error
            given[lacking[1]] = load_component(lacking[1], index.place, index, dtype)
    raise ModelLoadError(f"{path} lacks more parts than a pipeline has")


def _around(
    path: Path, index: ModelIndex | None, components: Mapping[str, Any], dtype: torch.dtype
) -> DiffusionPipeline:
    """A GGUF file is a denoiser alone: everything else comes from where its configuration is."""
    if index is None:
        how = f"give --config-from DIR|ID of the whole model, or --model DIR|ID --component transformer={path}"
        raise ModelLoadError(f"{path} holds one component only; {how}")
    denoiser = next((name for name in ("transformer", "unet") if name in index.components), "transformer")
    parts = {denoiser: load_component(denoiser, str(path), index, dtype), **components}
    return DiffusionPipeline.from_pretrained(index.place, torch_dtype=dtype, **parts)


def _unloadable(
    path: Path, chosen: type[DiffusionPipeline], found: Checkpoint, index: ModelIndex | None, error: Exception
) -> ModelLoadError:
    words = " ".join(str(error).split())[:400]
    where = index.place if index else found.config
    hint = f"its configuration was looked for at {where!r}: give --config-from DIR|ID of the same family"
    return ModelLoadError(f"cannot load {path} as a {chosen.__name__}: {words}; {hint}")


def _shapes(path: Path) -> dict[str, _Tensor]:
    try:
        if path.suffix.lower() in (".safetensors", ".sft"):
            with safe_open(path, framework="pt") as file:
                return {name: _Tensor(tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
        loaded = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        tensors = loaded.get("state_dict", loaded)
        return {name: _Tensor(tuple(value.shape)) for name, value in tensors.items() if hasattr(value, "shape")}
    except Exception as error:  # of safetensors, pickle and zip: no common base
        raise ModelLoadError(f"can't read {path}: {error}; expected a whole .safetensors or .ckpt file") from error
