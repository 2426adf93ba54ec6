"""Denoisers whose calls may differ in size, or in length, and still share a forward: where their positions come from.

An entry needs a module that turns positions into rotary tables, or whole latents into tokens, and attention that goes
through diffusers' dispatcher or torch. Everything else (padding, attention by row length) is
`engine/calls/packing/ragged.py`'s.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tables = tuple[torch.Tensor, ...]  # [tokens, channels], [1, tokens, ...] or [rows, tokens, ...] each
MakeTables = Callable[[Callable[..., Tables], Mapping[str, Any], int], Tables]


def nothing(module: nn.Module) -> Iterable[nn.Module]:
    """No part of a denoiser."""
    return ()


@dataclass(frozen=True)
class Packing:
    """`positions` are the arguments that say where image tokens are; `tables` asks `embed` for a call's tables.

    It gets the original `embed`, the call's arguments by name, and the number of text tokens. None where `embed` makes
    tokens of whole latents: it then makes each call's own.
    """

    positions: tuple[str, ...]
    tables: MakeTables | None
    tokens: str = "hidden_states"  # [rows, tokens, channels]
    text: str = "encoder_hidden_states"
    text_first: bool = True  # in attention
    dispatched: bool = True  # attention goes through diffusers' dispatcher; if not, straight to torch's
    whole: bool = False  # `tokens` are whole latents, [rows, channels, (frames,) height, width]
    by_token: tuple[str, ...] = ()  # arguments [rows, tokens, ...] where they have more than one dimension
    embed: str = "pos_embed"  # the module that positions come from
    aside: Callable[[Any], Iterable[nn.Module]] = nothing  # the parts that attend to texts only, which have no padding


def by_ids(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """One table of text and image positions, of nothing but `txt_ids` and `img_ids`."""
    return pos_embed(torch.cat([arguments["txt_ids"], arguments["img_ids"]]))


def _by_shapes(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """Qwen-Image's: a table for the image and one for the text, both from the image's height and width."""
    hidden = arguments["hidden_states"]
    return pos_embed(arguments["img_shapes"], max_txt_seq_len=num_text, device=hidden.device)


def _by_latents(rope: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """Wan's and HunyuanVideo's: from the latents' frames, height and width."""
    return rope(arguments["hidden_states"])


_LTX = ("num_frames", "height", "width", "rope_interpolation_scale")


def _by_numbers(rope: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """LTX-Video's: from frames, height, width and their scales, or from coordinates of each token."""
    return rope(arguments["hidden_states"], *map(arguments.get, (*_LTX, "video_coords")))


_FLUX = Packing(("img_ids",), by_ids)
PACKINGS: dict[str, Packing] = {
    "FluxTransformer2DModel": _FLUX,  # FLUX.1, Kontext, Fill
    "LongCatImageTransformer2DModel": _FLUX,
    "OvisImageTransformer2DModel": _FLUX,
    "QwenImageTransformer2DModel": Packing(("img_shapes",), _by_shapes),  # Qwen-Image, Edit, Edit-Plus
    "SD3Transformer2DModel": Packing((), None, text_first=False, dispatched=False, whole=True),  # SD3, SD3.5
    "WanTransformer3DModel": Packing(  # Wan 2.1 and 2.2, from texts and from pictures
        (), _by_latents, text_first=False, whole=True, by_token=("timestep",), embed="rope",
        aside=lambda wan: (block.attn2 for block in wan.blocks),
    ),
    "LTXVideoTransformer3DModel": Packing(
        _LTX, _by_numbers, text_first=False, by_token=("timestep",), embed="rope",
        aside=lambda ltx: (block.attn2 for block in ltx.transformer_blocks),
    ),
    "HunyuanVideoTransformer3DModel": Packing(
        (), _by_latents, text_first=False, whole=True, embed="rope", aside=lambda model: (model.context_embedder,)
    ),
}  # fmt: skip


def packing_of(module: nn.Module) -> Packing | None:
    """How calls of a denoiser share at several sizes; None where they don't."""
    packing = PACKINGS.get(type(module).__name__)
    first_frame = getattr(getattr(module, "config", None), "image_condition_type", None) == "token_replace"
    return None if first_frame else packing  # HunyuanVideo then counts the tokens of a frame, which a strip has not


def patches(module: nn.Module, latents: object) -> tuple[int, ...]:
    """The sides of a patch, where whole latents can be cut into them; empty where not."""
    config = getattr(module, "config", None)
    sides = getattr(config, "patch_size", None)
    if not sides or not isinstance(latents, torch.Tensor):
        return ()
    if isinstance(sides, int):
        sides = (sides, sides) if latents.ndim == 4 else (getattr(config, "patch_size_t", None) or 1, sides, sides)
    sizes = latents.shape[2:]
    fits = len(sizes) == len(sides) and not any(size % side for size, side in zip(sizes, sides, strict=True))
    return tuple(sides) if fits else ()


def to_strip(latents: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """[rows, channels, ..., width] as one patch beside the other: [rows, channels, *patch] with a longer last side."""
    counts = [size // side for size, side in zip(latents.shape[2:], patch, strict=True)]
    apart = latents.unflatten(2, (counts[0], patch[0]))
    for place in range(1, len(patch)):
        apart = apart.unflatten(2 + 2 * place, (counts[place], patch[place]))
    return apart.permute(_order(len(patch))).flatten(1 + len(patch))


def from_strip(strip: torch.Tensor, patch: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    """What `to_strip` makes of latents of these `sizes`, and padding behind, as it was."""
    counts = [size // side for size, side in zip(sizes, patch, strict=True)]
    own = strip[..., : torch.Size(counts).numel() * patch[-1]]
    apart = own.reshape(*own.shape[:2], *patch[:-1], *counts, patch[-1])
    order = _order(len(patch))
    return apart.permute([order.index(dim) for dim in range(len(order))]).reshape(*own.shape[:2], *sizes)


def _order(num_sides: int) -> list[int]:
    """Dimensions [rows, channels, count, side, count, side, ...]: the sides but the last, the counts, the last side."""
    sides, counts = range(3, 3 + 2 * num_sides, 2), range(2, 2 + 2 * num_sides, 2)
    return [0, 1, *sides[:-1], *counts, sides[-1]]
