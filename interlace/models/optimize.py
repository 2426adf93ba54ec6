"""What makes a pipeline's forwards faster or smaller, by name. Each really does what it says or is refused with why."""

import difflib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import AttentionBackendName

from interlace.errors import InvalidRequestError

ATTENTION_BACKENDS = tuple(sorted(backend.value for backend in AttentionBackendName))


@dataclass(frozen=True, kw_only=True)
class Optimizations:
    """What to apply to a pipeline after loading it. Raises `InvalidRequestError` for a name that is not known."""

    attention_backend: str | None = None
    names: tuple[str, ...] = ()  # of OPTIMIZATIONS

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in OPTIMIZATIONS:
                raise _unknown("optimization", name, sorted(OPTIMIZATIONS), "optimize")
        if self.attention_backend is not None and self.attention_backend not in ATTENTION_BACKENDS:
            raise _unknown("attention backend", self.attention_backend, ATTENTION_BACKENDS, "attention_backend")

    def apply(self, pipeline: DiffusionPipeline) -> None:
        """Change `pipeline`. Raises `InvalidRequestError` for what can't be done with it, or here."""
        if self.attention_backend is not None:
            set_attention_backend(pipeline, self.attention_backend)
        for name in dict.fromkeys(self.names):
            OPTIMIZATIONS[name](pipeline)


def set_attention_backend(pipeline: DiffusionPipeline, name: str) -> None:
    """Attention of the denoisers through one of diffusers' backends."""
    denoisers = [part for part in _denoisers(pipeline) if hasattr(part, "set_attention_backend")]
    if not denoisers:
        raise InvalidRequestError(
            f"{type(pipeline).__name__} has no denoiser that takes an attention backend; leave it out",
            "attention_backend",
        )
    for part in denoisers:
        try:
            part.set_attention_backend(name)
        except Exception as error:
            raise InvalidRequestError(
                f"the attention backend {name!r} can't be used here: {error}; install what it needs, or use native",
                "attention_backend",
            ) from error


def _compile(pipeline: DiffusionPipeline) -> None:
    """Regional: the repeated blocks only, for any number of rows and any size.

    Never a whole denoiser: its own call is the engine's, so that what is compiled around it would not be run.
    """
    blocks = [block for part in _denoisers(pipeline) for block in _repeated_blocks(part)]
    if not blocks:
        raise InvalidRequestError(
            f"{type(pipeline).__name__} has no repeated blocks to compile; leave it out", "compile"
        )
    for block in blocks:
        block.compile(dynamic=True)


def _repeated_blocks(denoiser: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that diffusers names; where it names none (SD3, PixArt), those in the denoiser's own lists."""
    names = getattr(denoiser, "_repeated_blocks", None)
    if names:
        return [part for part in denoiser.modules() if type(part).__name__ in names]
    lists = [part for part in denoiser.children() if isinstance(part, torch.nn.ModuleList)]
    return [block for part in lists for block in part]


def _vae_method(method: str, name: str) -> Callable[[DiffusionPipeline], None]:
    def apply(pipeline: DiffusionPipeline) -> None:
        vae = getattr(pipeline, "vae", None)
        if not hasattr(vae, method):
            raise InvalidRequestError(f"{type(vae).__name__} has no {name.replace('_', ' ')}; leave it out", name)
        getattr(vae, method)()

    return apply


def _channels_last(pipeline: DiffusionPipeline) -> None:
    """Convolutions of VAE and UNet on channels-last weights: the same numbers in a layout that is often faster."""
    for part in (getattr(pipeline, "vae", None), getattr(pipeline, "unet", None)):
        if isinstance(part, torch.nn.Module):
            part.to(memory_format=torch.channels_last)


def _fuse_qkv(pipeline: DiffusionPipeline) -> None:
    parts = [part for part in _denoisers(pipeline) if hasattr(part, "fuse_qkv_projections")]
    if not parts:
        raise InvalidRequestError(f"{type(pipeline).__name__} has no projections to fuse; leave it out", "optimize")
    for part in parts:
        part.fuse_qkv_projections()


def _cpu_offload(pipeline: DiffusionPipeline) -> None:
    if not torch.cuda.is_available():
        raise InvalidRequestError(
            "enable_cpu_offload moves modules between a GPU and the CPU, and there is no GPU here; leave it out",
            "enable_cpu_offload",
        )
    if importlib.util.find_spec("accelerate") is None:
        raise InvalidRequestError("enable_cpu_offload needs accelerate; pip install accelerate", "enable_cpu_offload")
    pipeline.enable_model_cpu_offload()


def _tf32(pipeline: DiffusionPipeline) -> None:
    torch.set_float32_matmul_precision("high")


OPTIMIZATIONS: dict[str, Callable[[DiffusionPipeline], None]] = {
    "compile": _compile,
    "vae_slicing": _vae_method("enable_slicing", "enable_vae_slicing"),
    "vae_tiling": _vae_method("enable_tiling", "enable_vae_tiling"),
    "channels_last": _channels_last,
    "fuse_qkv": _fuse_qkv,
    "cpu_offload": _cpu_offload,
    "tf32": _tf32,
}


def _denoisers(pipeline: DiffusionPipeline) -> list[Any]:
    names = ("transformer", "transformer_2", "unet", "prior", "decoder")
    return [part for name in names if isinstance(part := getattr(pipeline, name, None), torch.nn.Module)]


def _unknown(what: str, name: str, known: Iterable[str], param: str) -> InvalidRequestError:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InvalidRequestError(f"unknown {what} {name!r}; {hint}known are {', '.join(known)}", param)
