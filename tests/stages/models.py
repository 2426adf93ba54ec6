"""Tiny models for stages, saved to directories like any model."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

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


def save_chat_model(folder: Path) -> Path:
    """A tiny Qwen3 with random weights, letters for words and Qwen's chat template: any server runs it."""
    words = Tokenizer(BPE())
    words.pre_tokenizer, words.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = [*map(chr, range(33, 127)), "Ġ", "Ċ"]  # blank and new line; no half characters can be written
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words.train_from_iterator(
        ["a red circle beside a blue star"] * 50,
        BpeTrainer(vocab_size=400, initial_alphabet=letters, special_tokens=special, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=special[2], pad_token=special[0])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
                         eos_token_id=words.token_to_id(special[2]), pad_token_id=0, bos_token_id=None)  # fmt: skip
    model = Qwen3ForCausalLM(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.mul_(6)  # far from ties between tokens
    model.lm_head.weight.data[:2] = 0  # servers read other special tokens than the end as they like
    model.save_pretrained(folder)
    return folder


def save_family(name: str, folder: Path) -> Path:
    """A pipeline of the zoo."""
    FAMILIES[name].build().save_pretrained(folder)
    return folder
