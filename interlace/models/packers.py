"""Denoisers whose calls may differ in image size and still share a forward: where their positions come from.

An entry needs a `pos_embed` module that turns positions into rotary tables, or whole latents into tokens, and attention
over text and image together. Everything else (padding, attention by row length) is `engine/ragged.py`'s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Tables = tuple[torch.Tensor, ...]  # what pos_embed returns, [tokens, channels] each
MakeTables = Callable[[Callable[..., Tables], Mapping[str, Any], int], Tables]


@dataclass(frozen=True)
class Packing:
    """`positions` is the argument that says where image tokens are; `tables` asks pos_embed for a call's tables.

    It gets the original `pos_embed`, the call's arguments by name, and the number of text tokens. None where the
    denoiser takes whole latents, [rows, channels, height, width]: `pos_embed` then makes tokens of each call's own.
    """

    positions: str
    tables: MakeTables | None
    tokens: str = "hidden_states"  # [rows, tokens, channels]
    text: str = "encoder_hidden_states"
    text_first: bool = True  # in attention
    dispatched: bool = True  # attention goes through diffusers' dispatcher; if not, straight to torch's


def by_ids(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """One table of text and image positions, of nothing but `txt_ids` and `img_ids`."""
    return pos_embed(torch.cat([arguments["txt_ids"], arguments["img_ids"]]))


def _by_shapes(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """Qwen-Image's: a table for the image and one for the text, both from the image's height and width."""
    hidden = arguments["hidden_states"]
    return pos_embed(arguments["img_shapes"], max_txt_seq_len=num_text, device=hidden.device)


PACKINGS: dict[str, Packing] = {
    "FluxTransformer2DModel": Packing("img_ids", by_ids),  # FLUX.1, Kontext, Fill
    "LongCatImageTransformer2DModel": Packing("img_ids", by_ids),
    "OvisImageTransformer2DModel": Packing("img_ids", by_ids),
    "QwenImageTransformer2DModel": Packing("img_shapes", _by_shapes),  # Qwen-Image, Edit, Edit-Plus
    "SD3Transformer2DModel": Packing("hidden_states", None, text_first=False, dispatched=False),  # SD3, SD3.5
}


def patch_size(module: torch.nn.Module, latents: Any) -> int:
    """The side of a patch, where whole latents can be cut into them; 0 where not."""
    patch = int(getattr(getattr(module, "config", None), "patch_size", 0) or 0)
    fits = patch and isinstance(latents, torch.Tensor) and latents.ndim == 4
    return patch if fits and not any(side % patch for side in latents.shape[2:]) else 0


def from_strip(strip: torch.Tensor, patch: int, height: int, width: int) -> torch.Tensor:
    """[rows, channels, patch, patch * tokens], one patch beside the other, as [rows, channels, height, width]."""
    rows, channels = strip.shape[:2]
    down, across = height // patch, width // patch
    grid = strip[..., : down * width].reshape(rows, channels, patch, down, across, patch)
    return grid.transpose(2, 3).reshape(rows, channels, height, width)
