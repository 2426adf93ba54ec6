"""Denoisers whose calls may differ in image size and still share a forward: where their positions come from.

An entry needs a `pos_embed` module that turns positions into rotary tables, and attention that goes through diffusers'
dispatcher with text before image. Everything else (padding, attention by row length) is `engine/ragged.py`'s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Tables = tuple[torch.Tensor, ...]  # what pos_embed returns, [tokens, channels] each


@dataclass(frozen=True)
class Packing:
    """`positions` is the argument that says where image tokens are; `tables` asks pos_embed for a call's tables.

    It gets the original `pos_embed`, the call's arguments by name, and the number of text tokens.
    """

    positions: str
    tables: Callable[[Callable[..., Tables], Mapping[str, Any], int], Tables]
    tokens: str = "hidden_states"  # [rows, tokens, channels]
    text: str = "encoder_hidden_states"


def _by_ids(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """One table of text and image positions."""
    return pos_embed(torch.cat([arguments["txt_ids"], arguments["img_ids"]]))


def _by_shapes(pos_embed: Callable[..., Tables], arguments: Mapping[str, Any], num_text: int) -> Tables:
    """Qwen-Image's: a table for the image and one for the text, both from the image's height and width."""
    hidden = arguments["hidden_states"]
    return pos_embed(arguments["img_shapes"], max_txt_seq_len=num_text, device=hidden.device)


PACKINGS: dict[str, Packing] = {
    "FluxTransformer2DModel": Packing("img_ids", _by_ids),  # FLUX.1, Kontext, Fill
    "LongCatImageTransformer2DModel": Packing("img_ids", _by_ids),
    "OvisImageTransformer2DModel": Packing("img_ids", _by_ids),
    "QwenImageTransformer2DModel": Packing("img_shapes", _by_shapes),  # Qwen-Image, Edit, Edit-Plus
}
