"""Qwen-Image, its editors, LongCat-Image: pipelines whose text encoder is Qwen2.5-VL."""

from typing import Any

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LongCatImageEditPipeline,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.longcat_image import pipeline_longcat_image, pipeline_longcat_image_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

from .family import Family, finish, picture, seeded, strengthen, variations
from .glm import build_glm, glm_requests
from .parts import qwen_processor, qwen_vae, qwen_vl, vae
from .tokenizers import qwen_tokenizer

_SMALL_AREA = 48 * 48


def _shrink_constants() -> None:
    """The editors scale every picture to a megapixel, a constant of their modules: here to some 48 by 48.

    And LongCat's instruction for rewriting prompts has 10,000 letters: here a few.
    """
    pipeline_longcat_image.SYSTEM_PROMPT_EN = "Rewrite."
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus, pipeline_longcat_image_edit):
        scale = module.calculate_dimensions
        if not hasattr(scale, "stock"):

            def small(target_area: float, ratio: float, scale: Any = scale) -> Any:
                return scale(min(target_area, _SMALL_AREA), ratio)

            small.stock = scale  # type: ignore[attr-defined]
            module.calculate_dimensions = small  # type: ignore[assignment]


def _build_qwen(pipeline: type, **more: Any) -> Any:
    _shrink_constants()
    with seeded():
        built = pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
            vae=qwen_vae(),
            text_encoder=qwen_vl(),
            tokenizer=qwen_tokenizer(),
            transformer=QwenImageTransformer2DModel(
                patch_size=2,
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                guidance_embeds=False,
                axes_dims_rope=(8, 4, 4),
            ),
            **more,
        )
        # The stock template with these tokenizers is longer than the count of tokens that the pipeline drops.
        prefix = built.prompt_template_encode.split("{}")[0]
        built.prompt_template_encode_start_idx = len(built.tokenizer(prefix).input_ids)
        strengthen(built.transformer)
        return finish(built)


def _build_longcat(pipeline: type, length: int) -> Any:
    _shrink_constants()
    with seeded():
        built = pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae(16),
            text_encoder=qwen_vl(),
            tokenizer=qwen_tokenizer(),
            text_processor=qwen_processor(),
            transformer=LongCatImageTransformer2DModel(
                patch_size=1,
                in_channels=64,
                num_layers=1,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                pooled_projection_dim=16,
                axes_dims_rope=[4, 4, 8],
            ),
        )
        built.tokenizer_max_length = length
        return finish(built)


def _qwen() -> list[dict[str, Any]]:
    return variations(
        {"true_cfg_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"true_cfg_scale": 4.0, "negative_prompt": " "},
        {"true_cfg_scale": 1.0},
        {"true_cfg_scale": 2.5, "negative_prompt": "a long list of things: noise, low quality, a dark sky"},
        {},
        {"true_cfg_scale": 1.5, "negative_prompt": "dark", "max_sequence_length": 64},
        max_sequence_length=128,
    )


def _img2img() -> list[dict[str, Any]]:
    """All but the second skip a step: with none skipped, only noise goes in, and the picture does not matter."""
    return variations(
        {"image": picture(1, 32), "strength": 0.6, "true_cfg_scale": 4.0, "negative_prompt": "blurry"},
        {"image": picture(2, (32, 48)), "strength": 1.0},
        {"image": picture(3, 32), "strength": 0.5, "true_cfg_scale": 1.0},
        {"image": picture(4, (32, 48)), "strength": 0.4, "negative_prompt": " "},
        {"image": picture(5, 32), "strength": 0.7},
        max_sequence_length=128,
    )


def _edit() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 32), "true_cfg_scale": 4.0, "negative_prompt": "blurry"},
        {"image": picture(2, (48, 32)), "true_cfg_scale": 2.0, "negative_prompt": " "},
        {"image": picture(3, 32), "true_cfg_scale": 1.0},
        {"image": picture(4, (64, 32))},
        {"image": picture(5, 64), "true_cfg_scale": 3.0, "negative_prompt": "dark, noisy, low quality"},
        max_sequence_length=128,
    )


def _edit_plus() -> list[dict[str, Any]]:
    return variations(
        {"image": [picture(1, 32)], "true_cfg_scale": 4.0, "negative_prompt": "blurry"},
        {"image": [picture(2, 32), picture(6, (48, 32))], "true_cfg_scale": 2.0, "negative_prompt": " "},
        {"image": [picture(3, 32)], "true_cfg_scale": 1.0},
        {"image": [picture(4, 32), picture(7, 32)]},
        {"image": picture(5, 64), "true_cfg_scale": 3.0, "negative_prompt": "dark, noisy, low quality"},
        max_sequence_length=128,
    )


def _longcat() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.5, "negative_prompt": "blurry"},
        {"guidance_scale": 3.0, "enable_cfg_renorm": False},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0, "cfg_renorm_min": 0.5, "prompt": "a sign that says 'open'"},
        {"guidance_scale": 4.0, "enable_prompt_rewrite": True},
        enable_prompt_rewrite=False,
    )


def _longcat_edit() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 32), "guidance_scale": 4.5, "negative_prompt": "blurry"},
        {"image": picture(2, (64, 32)), "guidance_scale": 3.0},
        {"image": picture(3, 32), "guidance_scale": 1.0},
        {"image": picture(4, (32, 64)), "guidance_scale": 2.0, "prompt": "change the sign to 'open'"},
        {"image": picture(5, 48), "guidance_scale": 4.0, "prompt": "snow"},
        height=None,
        width=None,
    )


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen-image", lambda: _build_qwen(QwenImagePipeline), _qwen),
        Family("qwen-image-edit", lambda: _build_qwen(QwenImageEditPipeline, processor=qwen_processor()), _edit),
        Family("qwen-image-img2img", lambda: _build_qwen(QwenImageImg2ImgPipeline), _img2img),
        Family(
            "qwen-image-edit-plus",
            lambda: _build_qwen(QwenImageEditPlusPipeline, processor=qwen_processor()),
            _edit_plus,
        ),
        Family("longcat-image", lambda: _build_longcat(LongCatImagePipeline, 48), _longcat),
        Family(
            "glm-image",
            build_glm,
            glm_requests,
            note="draws from torch's global generator",
        ),
        Family("longcat-image-edit", lambda: _build_longcat(LongCatImageEditPipeline, 128), _longcat_edit),
    )
}
