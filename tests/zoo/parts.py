"""Tiny components that several families share; call them inside `seeded()`."""

from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLQwenImage
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from .tokenizers import QWEN_SPECIAL, QWEN_TEMPLATE, qwen_tokenizer

_QWEN_IDS = {token: 256 + number for number, token in enumerate(QWEN_SPECIAL)}


def vae(channels: int = 4, **settings: Any) -> AutoencoderKL:
    """Halves a picture's sides."""
    return AutoencoderKL(
        **{
            "sample_size": 32,
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "latent_channels": channels,
            "norm_num_groups": 4,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "shift_factor": 0.06,
            "scaling_factor": 1.6,
            **settings,
        }
    )


def deep_vae(channels: int = 4, **settings: Any) -> AutoencoderKL:
    """An eighth of a picture's sides, for pipelines that take no other factor."""
    return vae(
        channels,
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **settings,
    )


def clip_text() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=200,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def t5_text(width: int = 32, vocabulary: int = 200) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, is_decoder=False)
    )


def qwen_vae() -> AutoencoderKLQwenImage:
    """A quarter of a picture's sides."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 0.9, 1.1, 1.0],
    )


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL for `qwen_tokenizer`."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1000000.0},
            "bos_token_id": None,
            "eos_token_id": _QWEN_IDS["<|im_end|>"],
            "pad_token_id": _QWEN_IDS["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [1],
        },
        vision_start_token_id=_QWEN_IDS["<|vision_start|>"],
        vision_end_token_id=_QWEN_IDS["<|vision_end|>"],
        vision_token_id=_QWEN_IDS["<|vision_pad|>"],
        image_token_id=_QWEN_IDS["<|image_pad|>"],
        video_token_id=_QWEN_IDS["<|video_pad|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


class PictureProcessor(Qwen2VLProcessor):
    """Without a video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


def qwen_processor() -> PictureProcessor:
    """Pictures of 1 to 4 tokens."""
    return PictureProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=qwen_tokenizer(),
        chat_template=QWEN_TEMPLATE,
    )


def qwen3(layers: int = 3) -> Qwen3Config:
    """For `qwen_tokenizer`; width 16."""
    return Qwen3Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=_QWEN_IDS["<|im_end|>"],
        pad_token_id=_QWEN_IDS["<|endoftext|>"],
    )
