"""Cheap previews: latents to RGB by a linear map fitted once per VAE, at a chosen stride of steps."""

import copy
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

if TYPE_CHECKING:
    from interlace.engine.ticket import Ticket


logger = logging.getLogger("interlace.engine")


def watch_steps(view: DiffusionPipeline, ticket: "Ticket") -> Mapping[str, object]:
    """The request's arguments, with a step callback that hands out latents where previews are wanted and possible."""
    if not ticket.preview_every or ticket.listener is None:
        return ticket.kwargs
    if "callback_on_step_end" not in inspect.signature(view.__call__).parameters:
        return ticket.kwargs
    theirs = ticket.kwargs.get("callback_on_step_end")
    inputs = list(ticket.kwargs.get("callback_on_step_end_tensor_inputs") or ["latents"])
    return {
        **ticket.kwargs,
        "callback_on_step_end": _with_preview(ticket, theirs, keep_latents="latents" in inputs),
        "callback_on_step_end_tensor_inputs": inputs if "latents" in inputs else [*inputs, "latents"],
    }


def _with_preview(ticket: "Ticket", theirs: Callable[..., Any] | None, *, keep_latents: bool) -> Callable[..., Any]:
    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        last = step + 1 >= ticket.num_steps  # of that one the output itself is on its way
        if (step + 1) % ticket.preview_every == 0 and not last:
            ticket.tell("preview", step + 1, latents.detach().clone())
        if theirs is None:
            return {}
        seen = tensors if keep_latents else {k: v for k, v in tensors.items() if k != "latents"}
        return theirs(pipe, step, timestep, seen) or {}

    return on_step_end


def fit_rgb_factors(vae: torch.nn.Module, *, size: int = 128, samples: int = 8) -> torch.Tensor:
    """Least-squares map from latents to RGB, fitted on random smooth pictures: [channels + 1, 3], last row a bias.

    Raises whatever `vae.encode` raises for an image batch [samples, 3, size, size] in [-1, 1].
    """
    parameter = next(vae.parameters())
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(samples, 3, 4, 4, generator=generator) * 2 - 1
    pictures = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    given = pictures.to(parameter.device, parameter.dtype)
    if of_films(vae):  # a picture is a film of one frame
        twin: Any = _twin(vae)
        posterior = type(twin).encode(twin, given[:, :, None])
    else:
        encode: Callable[[torch.Tensor], Any] = getattr(vae, "encode")  # noqa: B009 - diffusers' own
        posterior = encode(given)
    latents = (posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latent).float().cpu()
    latents = latents[:, :, 0] if latents.ndim == 5 else latents
    colours = torch.nn.functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    rows = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    return torch.linalg.lstsq(rows, colours.movedim(1, -1).reshape(-1, 3)).solution


def of_films(vae: torch.nn.Module) -> bool:
    """Whether a VAE's pictures have a time."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())


def _twin(vae: torch.nn.Module) -> torch.nn.Module:
    """The same weights in modules of its own: VAEs of films keep frames in themselves while they run, and the engine
    may be decoding with this one right now."""
    own = (*vae.parameters(), *vae.buffers())
    return copy.deepcopy(vae, {id(tensor): tensor for tensor in own})


class Previewer:
    """Small pictures of latents in mid-course. Thread-safe; fits its map when first asked."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._factors: torch.Tensor | None = None
        self._lock = threading.Lock()
        self._broken = not isinstance(getattr(pipeline, "vae", None), torch.nn.Module)

    def picture(self, latents: torch.Tensor, height: int | None, width: int | None) -> Image.Image | None:
        """A picture at latent resolution, or None where this family's latents can't be read that way."""
        if self._broken:
            return None
        try:
            return self._picture(latents, height, width)
        except Exception as error:
            logger.warning("no previews for %s: %s", type(self._pipeline).__name__, error)
            self._broken = True
            return None

    def _picture(self, latents: torch.Tensor, height: int | None, width: int | None) -> Image.Image | None:
        with self._lock, torch.no_grad():
            if self._factors is None:
                self._factors = fit_rgb_factors(self._pipeline.vae)
        if latents.ndim == 3:  # packed into tokens
            if not height or not width:
                return None
            if of_films(self._pipeline.vae):
                return self._first_of_film(latents, height, width)
            try:
                latents = self._pipeline._unpack_latents(latents, height, width, self._pipeline.vae_scale_factor)
            except RuntimeError:
                return None  # this request's latents have another size than was asked for; the next one's may not
        if latents.ndim == 5:  # the first frame of a video
            latents = latents[:, :, 0]
        return self._coloured(latents[0])

    def _first_of_film(self, tokens: torch.Tensor, height: int, width: int) -> Image.Image | None:
        """The first frame of a film in tokens [rows, tokens, channels], frame after frame (LTX-Video)."""
        scale = int(self._pipeline.vae_spatial_compression_ratio)
        down, across = height // scale, width // scale
        if not down or not across or tokens.shape[1] % (down * across):
            return None
        return self._coloured(tokens[0, : down * across].T.reshape(-1, down, across))

    def _coloured(self, latents: torch.Tensor) -> Image.Image:
        """[channels, height, width] as a picture of that size."""
        assert self._factors is not None
        pixels = self._raw(latents.float().cpu()).movedim(0, -1)  # [height, width, channels]
        rgb = pixels @ self._factors[:-1] + self._factors[-1]
        return Image.fromarray(((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())

    def _raw(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo the scaling between a VAE's latents and those that are denoised: [channels, height, width]."""
        config = self._pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and std is not None:
            return latents * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
        return latents / (config.scaling_factor or 1.0) + (getattr(config, "shift_factor", None) or 0.0)
