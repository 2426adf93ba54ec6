"""Pipelines that hand caches of keys and values from step to step; Marigold's, which say what a picture shows."""

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    MarigoldDepthPipeline,
    MarigoldIntrinsicsPipeline,
    MarigoldNormalsPipeline,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    StableDiffusionPipeline,
)
from transformers import Qwen2VLImageProcessorPil, Qwen3ForCausalLM, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl import Qwen3VLProcessor

from .family import Family, finish, generator, picture, seeded, strengthen, variations
from .flux2 import _transformer, _vae
from .parts import qwen3
from .stable_diffusion import _sd, _unet
from .tokenizers import QWEN_SPECIAL, QWEN_TEMPLATE, qwen_tokenizer

_ID = {token: 256 + number for number, token in enumerate(QWEN_SPECIAL)}


def _build_klein_kv() -> Any:
    with seeded():
        return finish(
            Flux2KleinKVPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
                vae=_vae(),
                text_encoder=Qwen3ForCausalLM(qwen3()),
                tokenizer=qwen_tokenizer(),
                transformer=_transformer(False),
            )
        )


def _klein_kv() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 64)},
        {"image": [picture(2, (80, 64)), picture(3, 64)]},
        {"image": picture(4, 64)},
        {},
        {"image": picture(5, 64)},
        max_sequence_length=160,
        text_encoder_out_layers=(1, 2),
    )


class _Processor(Qwen3VLProcessor):
    """Without a video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


def _qwen3_vl() -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config={
                "vocab_size": 320,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "default", "rope_theta": 1000000.0},
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "out_hidden_size": 16,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            vision_start_token_id=_ID["<|vision_start|>"],
            vision_end_token_id=_ID["<|vision_end|>"],
            image_token_id=_ID["<|image_pad|>"],
            video_token_id=_ID["<|video_pad|>"],
        )
    )


def _build_qwen_21() -> Any:
    with seeded():
        built = QwenImage21Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
            vae=AutoencoderKLQwenImage21(
                base_dim=8,
                decoder_base_dim=8,
                z_dim=4,
                dim_mult=[1, 1, 2, 2, 2],
                num_res_blocks=1,
                latents_mean=[0.1, -0.1, 0.2, 0.0],
                latents_std=[1.0, 0.9, 1.1, 1.0],
            ),
            text_encoder=_qwen3_vl(),
            processor=_Processor(
                image_processor=Qwen2VLImageProcessorPil(
                    min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16, merge_size=2
                ),
                tokenizer=qwen_tokenizer(),
                chat_template=QWEN_TEMPLATE,
            ),
            transformer=QwenImage21Transformer2DModel(
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                context_in_dim=16,
                axes_dims_rope=(4, 6, 6),
            ),
        )
        strengthen(built.transformer)
        return finish(built)


def _qwen_21() -> list[dict[str, Any]]:
    return variations(
        {"true_cfg_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"true_cfg_scale": 3.0, "negative_prompt": "blurry, ugly", "prompt": "a big fox"},
        {"true_cfg_scale": 2.0, "negative_prompt": "blurry, ugly", "prompt": "a tin fox"},
        {},
        {"use_kv_cache": False, "prompt": "a wet fox"},
        sizes=((64, 64), (64, 64), (96, 64)),
    )


def _marigold(kind: type, targets: int = 1, **settings: Any) -> Any:
    drawing = _sd(StableDiffusionPipeline)
    parts = {name: getattr(drawing, name) for name in ("vae", "scheduler", "text_encoder", "tokenizer")}
    with seeded():
        unet = _unet(4 * (targets + 1), out_channels=4 * targets)
    return finish(kind(unet=unet, **parts, **settings))


_LAYERS = {
    "target_names": ["albedo", "shading"],
    "albedo": {"prediction_space": "linear", "up_to_scale": False},
    "shading": {"prediction_space": "linear", "up_to_scale": False},
}


def _looks() -> list[dict[str, Any]]:
    return [
        {
            "image": picture(number, 32),
            "num_inference_steps": (2, 3, 1)[number % 3],
            "processing_resolution": 0,
            "ensemble_size": 1,
            "generator": generator(number),
        }
        for number in range(4)
    ]


FAMILIES = {
    family.name: family
    for family in (
        Family("flux2-klein-kv", _build_klein_kv, _klein_kv),
        Family("qwen-image-2.1", _build_qwen_21, _qwen_21),
        Family(
            "marigold-depth",
            lambda: _marigold(
                MarigoldDepthPipeline, prediction_type="depth", scale_invariant=True, shift_invariant=True
            ),
            _looks,
            denoisers=("unet",),
        ),
        Family(
            "marigold-normals",
            lambda: _marigold(MarigoldNormalsPipeline, prediction_type="normals"),
            _looks,
            denoisers=("unet",),
        ),
        Family(
            "marigold-intrinsics",
            lambda: _marigold(MarigoldIntrinsicsPipeline, 2, prediction_type="intrinsics", target_properties=_LAYERS),
            _looks,
            denoisers=("unet",),
        ),
    )
}
