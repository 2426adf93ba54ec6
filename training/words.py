"""The tokenizers and text encoders of the demo models: one token a word, a closed vocabulary."""

import random

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from training.captions import caption, random_edit
from training.scenes import random_scene

MAX_TOKENS = 24
_NEIGHBOURS = (1, 2, 3)  # T5's buckets of relative positions: one, two and three words before
_SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
# Words that people and the language model use beside those of the captions.
_MORE = (
    *("an", "is", "are", "it", "one", "two", "three", "something", "draw", "show", "image", "scene", "this", "colour"),
    *("round", "big", "tiny", "middle", ".", "pattern", "dark", "bright", "night", "sky", "sun", "love", "shape"),
)


def vocabulary() -> list[str]:
    """Every word of the captions and instructions, in a fixed order."""
    rng, words = random.Random(0), set[str]()
    for _ in range(4000):
        words |= set(caption(random_scene(rng), rng).replace(",", " ,").split())
        words |= set(random_edit(rng)[1].split())
    return [*_SPECIAL, *sorted(words | set(_MORE))]


def tokenizer(max_length: int = MAX_TOKENS) -> PreTrainedTokenizerFast:
    """Words to numbers; unknown ones become <unk>; an <eos> at the end."""
    words = {word: index for index, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", words["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>",
        eos_token="<eos>", padding_side="right",
    )  # fmt: skip


def clip_encoder(vocab_size: int, width: int = 64) -> CLIPTextModel:
    """One layer; gives the pooled vector."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=width, attention_dropout=0.0,
            pad_token_id=0, bos_token_id=2, eos_token_id=3,
        )
    )  # fmt: skip


def t5_encoder(vocab_size: int, width: int = 128) -> T5EncoderModel:
    """Two layers; gives one vector a token.

    All heads but the last begin with a look at one neighbour each: a bias that starts at zero takes thousands of steps
    to tell which colour goes with which shape.
    """
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocab_size, d_model=width, d_kv=32, d_ff=2 * width, num_layers=2, num_heads=4, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=3, decoder_start_token_id=0,
        )
    )  # fmt: skip
    with torch.no_grad():
        for head, offset in enumerate(_NEIGHBOURS):
            bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
            bias[offset, head] += 4.0
    return encoder
