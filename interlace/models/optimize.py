"""What makes a pipeline's forwards faster or smaller, by name. Each really does what it says or is refused with why."""

import difflib
import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import AttentionBackendName

from interlace.engine.accelerator import default_device
from interlace.errors import InvalidRequestError
from interlace.models.automatic.choice import denoisers_of, optimize_automatically

_MOST_GRAPHS = 64  # versions of one block: row buckets times sizes
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

    @property
    def offloads(self) -> bool:
        """Whether weights stay in main memory until they are needed."""
        return bool({"cpu_offload", "group_offload"} & set(self.names))

    def apply(self, pipeline: DiffusionPipeline) -> tuple[str, ...]:
        """Change `pipeline`; in words, how. Raises `InvalidRequestError` for what can't be done with it, or here."""
        done: list[str] = []
        if self.attention_backend is not None:
            set_attention_backend(pipeline, self.attention_backend)
            done.append(f"attention {self.attention_backend}")
        for name in dict.fromkeys(self.names):
            if name == "auto" and self.offloads:
                continue  # weights that come and go are left as they are
            found = OPTIMIZATIONS[name](pipeline)
            done += [name] if found is None else found
        return tuple(done)


def set_attention_backend(pipeline: DiffusionPipeline, name: str) -> None:
    """Attention of the denoisers through one of diffusers' backends."""
    denoisers = [part for part in denoisers_of(pipeline) if hasattr(part, "set_attention_backend")]
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


def compile_blocks(pipeline: DiffusionPipeline, *, dynamic: bool = True, **how: str) -> None:
    """Regional: the repeated blocks only, for any number of rows and any size, or for each by itself (not `dynamic`).

    `how`: further ways of `torch.compile`. Never a whole denoiser: its own call is the engine's, so that what is
    compiled around it would not be run.
    """
    blocks = [block for part in denoisers_of(pipeline) for block in _repeated_blocks(part)]
    if not blocks:
        raise InvalidRequestError(
            f"{type(pipeline).__name__} has no repeated blocks to compile; leave it out", "compile"
        )
    for block in blocks:
        block.compile(dynamic=dynamic, **how)


def _compile(pipeline: DiffusionPipeline) -> None:
    compile_blocks(pipeline)


def _cuda_graphs(pipeline: DiffusionPipeline) -> None:
    """The repeated blocks compiled for each row count and size by itself, and replayed as CUDA graphs (untried)."""
    if not torch.cuda.is_available():
        text = "CUDA graphs need an NVIDIA GPU, and there is none here; leave them out, or use enable_compile"
        raise InvalidRequestError(text, "optimize")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    compile_blocks(pipeline, dynamic=False, mode="reduce-overhead")


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
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's own hints


def _fuse_qkv(pipeline: DiffusionPipeline) -> None:
    parts = [part for part in denoisers_of(pipeline) if hasattr(part, "fuse_qkv_projections")]
    if not parts:
        raise InvalidRequestError(f"{type(pipeline).__name__} has no projections to fuse; leave it out", "optimize")
    for part in parts:
        part.fuse_qkv_projections()


def _cpu_offload(pipeline: DiffusionPipeline) -> None:
    """The module that runs is on the accelerator, the others are in main memory."""
    _check_accelerator("model")
    if importlib.util.find_spec("accelerate") is None:
        raise InvalidRequestError("offload model needs accelerate; pip install accelerate", "offload")
    pipeline.enable_model_cpu_offload()


def _group_offload(pipeline: DiffusionPipeline) -> None:
    """Layer by layer: the least memory on the accelerator."""
    _check_accelerator("group")
    pipeline.enable_group_offload(onload_device=torch.device(default_device()), offload_type="leaf_level")


def _check_accelerator(name: str) -> None:
    if not torch.accelerator.is_available():
        text = f"offload {name} moves weights between an accelerator and main memory, and there is no GPU here"
        raise InvalidRequestError(f"{text}; leave it out, or use layerwise", "offload")


def _layerwise_casting(pipeline: DiffusionPipeline) -> None:
    """The denoisers' weights lie in 8 bits and are cast for each layer's forward: half of bfloat16's memory, lossy."""
    for part in denoisers_of(pipeline):
        if not hasattr(part, "enable_layerwise_casting"):
            raise InvalidRequestError(f"{type(part).__name__} takes no layerwise casting; leave it out", "offload")
        part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=part.dtype)


def _tf32(pipeline: DiffusionPipeline) -> None:
    torch.set_float32_matmul_precision("high")


def _deterministic(pipeline: DiffusionPipeline) -> None:
    """The same forward gives the same bits at every run; an operation that can't raises, and says which it is."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic  # torch's own hints don't know what it holds
    settings.fill_uninitialized_memory = False  # for debugging; costs a pass over all memory


OPTIMIZATIONS: dict[str, Callable[[DiffusionPipeline], list[str] | None]] = {  # what was done, if not just that
    "auto": optimize_automatically,
    "compile": _compile,
    "cuda_graphs": _cuda_graphs,
    "vae_slicing": _vae_method("enable_slicing", "enable_vae_slicing"),
    "vae_tiling": _vae_method("enable_tiling", "enable_vae_tiling"),
    "channels_last": _channels_last,
    "fuse_qkv": _fuse_qkv,
    "cpu_offload": _cpu_offload,
    "group_offload": _group_offload,
    "layerwise_casting": _layerwise_casting,
    "tf32": _tf32,
    "deterministic": _deterministic,
}


AUTO = Optimizations(names=("auto",))


def chosen(asked: Optimizations | None, *, batch_invariant: object = False) -> Optimizations | None:
    """What whoever loads a model by its name gets: as asked, else auto, but for an engine whose forwards are to give
    the same bits in any company."""
    return asked or (None if batch_invariant else AUTO)


def _unknown(what: str, name: str, known: Iterable[str], param: str) -> InvalidRequestError:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InvalidRequestError(f"unknown {what} {name!r}; {hint}known are {', '.join(known)}", param)
