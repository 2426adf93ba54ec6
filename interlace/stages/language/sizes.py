"""How much memory a text takes in a language model's key-value cache."""

from typing import Any

import torch


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token in all layers; `config` is a text model's."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)
