"""The nodes: text to image and edit, with progress, previews and an end when the queue is interrupted."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image

from .client import Server, ServerError

_PREVIEW_SIDE = 512  # longest side of a preview that ComfyUI shows, in pixels
_MAX_SEED = 2**63 - 1
_SERVER = ("STRING", {"default": "http://127.0.0.1:8000"})
_COMMON = {
    "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
    "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the model's default"}),
    "guidance_scale": ("FLOAT", {"default": -1.0, "min": -1.0, "max": 100.0, "tooltip": "-1: the model's default"}),
    "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
    "model": ("STRING", {"default": ""}),
    "api_key": ("STRING", {"default": ""}),
}
_SEED = ("INT", {"default": 0, "min": 0, "max": _MAX_SEED, "control_after_generate": True})


class InterlaceTextToImage:
    """Pictures from a prompt: a batch of IMAGE [batch, height, width, 3], 0 to 1."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"
    CATEGORY = "Interlace"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """ComfyUI's description of the sockets and widgets. A side of 0 leaves the size to the model."""
        side = ("INT", {"default": 0, "min": 0, "max": 8192, "step": 16, "tooltip": "0: the model's default"})
        prompt = ("STRING", {"multiline": True, "default": "a red circle"})
        required = {"server": _SERVER, "prompt": prompt, "seed": _SEED, "width": side, "height": side}
        return {"required": required, "optional": _COMMON}

    def draw(self, server: str, prompt: str, seed: int, width: int, height: int, **more: Any) -> tuple[torch.Tensor]:
        """Raises `ServerError` with the server's words, and ComfyUI's own exception when the queue is interrupted."""
        body = {"prompt": prompt, "seed": seed, "width": width or None, "height": height or None, **_fields(more)}
        return (_drawn(Server(server, more.get("api_key", "")), "/v1/images/generations", body),)


class InterlaceEdit:
    """A picture changed as a prompt says; with a mask only where that is 1."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "edit"
    CATEGORY = "Interlace"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """As above, with the picture and the mask."""
        prompt = ("STRING", {"multiline": True, "default": "make it blue"})
        required = {"server": _SERVER, "image": ("IMAGE",), "prompt": prompt, "seed": _SEED}
        return {"required": required, "optional": {"mask": ("MASK",), **_COMMON}}

    def edit(
        self, server: str, image: torch.Tensor, prompt: str, seed: int, mask: torch.Tensor | None = None, **more: Any
    ) -> tuple[torch.Tensor]:
        """The images of a batch go into one edit together, as references. Raises as `InterlaceTextToImage.draw`."""
        pictures = [_picture(one) for one in image]
        body: dict[str, Any] = {"prompt": prompt, "seed": seed, "image": [_base64(one) for one in pictures]}
        if mask is not None:
            body["mask"] = _base64(_transparent_where(mask, pictures[0].size))
        return (_drawn(Server(server, more.get("api_key", "")), "/v1/images/edits", {**body, **_fields(more)}),)


def _fields(more: Mapping[str, Any]) -> dict[str, Any]:
    guidance = more.get("guidance_scale", -1.0)
    return {
        "negative_prompt": more.get("negative_prompt"),
        "num_inference_steps": more.get("steps") or None,
        "guidance_scale": None if guidance < 0 else guidance,
        "n": more.get("batch_size", 1),
        "model": more.get("model"),
        "partial_images": 3,
    }


def _drawn(server: Server, path: str, body: Mapping[str, Any]) -> torch.Tensor:
    job = server.submit(path, body)
    try:
        count = _follow(server, job)
        pictures = [Image.open(io.BytesIO(server.picture(job, index))) for index in range(count)]
        return torch.stack([_tensor(picture) for picture in pictures])
    finally:
        server.forget(job)


def _follow(server: Server, job: str) -> int:
    """Shows steps and previews until the pictures are there; how many there are."""
    bar = comfy.utils.ProgressBar(100)  # per cent of all steps of all pictures
    for kind, event in server.events(job):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if kind == "error":
            raise ServerError(event["error"]["message"])
        if kind == "done":
            return len(event["parts"])
        if kind in ("step", "preview"):
            bar.update_absolute(event["progress"], 100, _preview(event.get("b64_json")))
    raise ServerError("the server closed the connection before the picture was there")


def _preview(data: str | None) -> tuple[str, Image.Image, int] | None:
    if data is None:
        return None
    return "JPEG", Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), _PREVIEW_SIDE


def _picture(image: torch.Tensor) -> Image.Image:
    """Of [height, width, channels], 0 to 1."""
    return Image.fromarray((image.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)[..., :3])


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)


def _transparent_where(mask: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """OpenAI's kind of mask, transparent where to edit, of a [1, height, width] or [height, width] one."""
    plain = mask[0] if mask.ndim == 3 else mask
    alpha = Image.fromarray(((1 - plain.clamp(0, 1)).cpu().numpy() * 255).round().astype(np.uint8)).resize(size)
    picture = Image.new("RGBA", size, "black")
    picture.putalpha(alpha)
    return picture


def _base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


NODE_CLASS_MAPPINGS = {"InterlaceTextToImage": InterlaceTextToImage, "InterlaceEdit": InterlaceEdit}
NODE_DISPLAY_NAME_MAPPINGS = {
    "InterlaceTextToImage": "Interlace: text to image",
    "InterlaceEdit": "Interlace: edit",
}
