"""Tokenizers built in code: nothing is downloaded."""

import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .family import PROMPTS

_WORDS = (
    "the and with of photo painting picture sky sea sun moon blue red green yellow white black dog house city car",
    "blurry ugly low quality bad dark noisy make it add remove turn into more less a an at in on",
)

QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Messages whose content is a string or a list of parts; pictures become one placeholder, as in Qwen2-VL.
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def _vocabulary(special: tuple[str, ...]) -> dict[str, int]:
    words = sorted({word for text in (*PROMPTS, *_WORDS) for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    return {token: number for number, token in enumerate(dict.fromkeys((*special, *words)))}


def _words(special: tuple[str, ...], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(_vocabulary(special), unk_token=unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def clip_tokenizer(max_length: int = 77) -> PreTrainedTokenizerFast:
    """Start 0, end and padding 1, unknown 2; fewer than 200 words."""
    tokenizer = _words(("<|startoftext|>", "<|endoftext|>", "<|unknown|>"), "<|unknown|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|unknown|>",
        model_max_length=max_length,
    )


def t5_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """Padding 0, end 1, unknown 2; fewer than 200 words."""
    tokenizer = _words(("<pad>", "</s>", "<unk>"), "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
    )


def bert_tokenizer(max_length: int = 77) -> PreTrainedTokenizerFast:
    """Padding 0, class 1, separator 2, unknown 3; gives token types too."""
    tokenizer = _words(("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=max_length,
    )


def causal_tokenizer(
    max_length: int = 256, side: str = "right", template: str | None = None
) -> PreTrainedTokenizerFast:
    """As of Llama, Gemma or GLM: padding 0, start 1 (before every text), end 2, unknown 3."""
    tokenizer = _words(("<pad>", "<bos>", "<eos>", "<unk>"), "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
        padding_side=side,
        chat_template=template,
    )


def qwen_tokenizer(max_length: int = 2048, extra: tuple[str, ...] = (), side: str = "right") -> PreTrainedTokenizerFast:
    """Pieces of a byte each, 256 of them, then the special tokens from 256 on; any text round-trips."""
    special = (*QWEN_SPECIAL, *extra)
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate((*pieces, *special))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s?\w+|[^\w\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special),
        model_max_length=max_length,
        padding_side=side,
        chat_template=QWEN_TEMPLATE,
    )
