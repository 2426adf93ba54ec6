"""Tiny models for stages, saved to directories like any model."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from interlace.demo import MODELS
from tests.zoo import FAMILIES


def save_language_model(folder: Path, width: int = 32) -> Path:
    """Random weights with the built-in model's words; hidden states as wide as tiny pipelines' text encoders."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(MODELS["demo-expand"].path)
    config = LlamaConfig(vocab_size=len(words), hidden_size=width, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, eos_token_id=3,
                         bos_token_id=2, pad_token_id=0)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_family(name: str, folder: Path) -> Path:
    """A pipeline of the zoo."""
    FAMILIES[name].build().save_pretrained(folder)
    return folder
