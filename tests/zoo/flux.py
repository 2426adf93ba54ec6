"""FLUX.1 and its kin: Kontext, Fill, img2img, ControlNet, Chroma."""

from typing import Any

from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from .family import PROMPTS, Family, finish, mask, picture, seeded, variations
from .parts import clip_text, t5_text, vae
from .tokenizers import clip_tokenizer, t5_tokenizer

_SHAPE = {
    "patch_size": 1,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}


def _parts(channels: int = 16, guidance: bool = True) -> dict[str, Any]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_text(),
        "tokenizer_2": t5_tokenizer(),
        "transformer": FluxTransformer2DModel(
            **_SHAPE, in_channels=channels, out_channels=16, pooled_projection_dim=32, guidance_embeds=guidance
        ),
    }


def _build(pipeline: type, channels: int = 16, guidance: bool = True) -> Any:
    with seeded():
        return finish(pipeline(**_parts(channels, guidance)))


def _flux() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 3.5},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0, "true_cfg_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 7.0, "prompt_2": "oil painting"},
        {"guidance_scale": 3.5, "true_cfg_scale": 2.0, "negative_prompt": ""},
        {"guidance_scale": 3.5, "max_sequence_length": 64},
        max_sequence_length=48,
    )


def _schnell() -> list[dict[str, Any]]:
    return variations({}, {}, {}, {"sigmas": [1.0, 0.6, 0.2]}, {}, guidance_scale=0.0, max_sequence_length=32)


def _kontext() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 32), "guidance_scale": 2.5},
        {"image": picture(2, (48, 32)), "guidance_scale": 3.5},
        {"image": picture(3, 32), "true_cfg_scale": 3.0, "negative_prompt": "dark"},
        {"image": picture(4, 48)},
        {"guidance_scale": 5.0},
        max_area=32 * 32,
        _auto_resize=False,
        max_sequence_length=48,
    )


def _fill() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 32), "mask_image": mask(1, 32)},
        {"image": picture(2, (32, 48)), "mask_image": mask(2, (32, 48)), "guidance_scale": 10.0},
        {"image": picture(3, 32), "mask_image": mask(3, 32), "strength": 0.6},
        {"image": picture(4, (32, 48)), "mask_image": mask(4, (32, 48)), "guidance_scale": 3.0},
        {"image": picture(5, 32), "mask_image": mask(5, 32)},
        guidance_scale=30.0,
        max_sequence_length=48,
    )


def _img2img() -> list[dict[str, Any]]:
    """All but the second skip a step: with none skipped, only noise goes in, and the picture does not matter."""
    return variations(
        {"image": picture(1, 32), "strength": 0.6},
        {"image": picture(2, (32, 48)), "strength": 1.0},
        {"image": picture(3, 32), "strength": 0.5, "true_cfg_scale": 3.0, "negative_prompt": "blurry"},
        {"image": picture(4, (32, 48)), "strength": 0.4, "guidance_scale": 2.0},
        {"image": picture(5, 32), "strength": 0.7},
        guidance_scale=5.0,
        max_sequence_length=48,
    )


def _inpaint() -> list[dict[str, Any]]:
    return variations(
        {"image": picture(1, 32), "mask_image": mask(1, 32), "strength": 0.8},
        {"image": picture(2, (32, 48)), "mask_image": mask(2, (32, 48)), "strength": 1.0},
        {
            "image": picture(3, 32),
            "mask_image": mask(3, 32),
            "strength": 0.5,
            "true_cfg_scale": 3.0,
            "negative_prompt": "blurry",
        },
        {"image": picture(4, (32, 48)), "mask_image": mask(4, (32, 48)), "strength": 0.7, "guidance_scale": 2.0},
        {"image": picture(5, 32), "mask_image": mask(5, 32), "strength": 0.9},
        guidance_scale=5.0,
        max_sequence_length=48,
    )


def _build_controlnet() -> Any:
    with seeded():
        controlnet = FluxControlNetModel(
            **{**_SHAPE, "num_layers": 1, "num_single_layers": 1},
            in_channels=16,
            pooled_projection_dim=32,
            guidance_embeds=True,
        )
        return finish(FluxControlNetPipeline(**_parts(), controlnet=controlnet))


def _controlnet() -> list[dict[str, Any]]:
    return variations(
        {"control_image": picture(1, 32), "controlnet_conditioning_scale": 0.5},
        {"control_image": picture(2, (32, 48)), "controlnet_conditioning_scale": 0.9},
        {"control_image": picture(3, 32), "true_cfg_scale": 3.0, "negative_prompt": "ugly"},
        {"control_image": picture(4, (32, 48)), "control_guidance_end": 0.5},
        {"control_image": picture(5, 32), "control_guidance_start": 0.3, "guidance_scale": 1.0},
        guidance_scale=3.5,
        max_sequence_length=48,
    )


def _build_chroma() -> Any:
    with seeded():
        return finish(
            ChromaPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=vae(),
                text_encoder=t5_text(),
                tokenizer=t5_tokenizer(),
                transformer=ChromaTransformer2DModel(
                    **_SHAPE,
                    in_channels=16,
                    approximator_hidden_dim=32,
                    approximator_layers=1,
                    approximator_num_channels=16,
                ),
            )
        )


def _chroma() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 3.0, "negative_prompt": "blurry, low quality"},
        {"guidance_scale": 5.0, "negative_prompt": PROMPTS[3]},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0},
        {"guidance_scale": 2.0, "max_sequence_length": 64},
        max_sequence_length=48,
    )


FAMILIES = {
    family.name: family
    for family in (
        Family("flux", lambda: _build(FluxPipeline), _flux),
        Family("flux-schnell", lambda: _build(FluxPipeline, guidance=False), _schnell),
        Family("flux-kontext", lambda: _build(FluxKontextPipeline), _kontext),
        Family("flux-fill", lambda: _build(FluxFillPipeline, 48), _fill),
        Family("flux-img2img", lambda: _build(FluxImg2ImgPipeline), _img2img),
        Family("flux-inpaint", lambda: _build(FluxInpaintPipeline), _inpaint),
        Family("flux-controlnet", _build_controlnet, _controlnet, denoisers=("transformer", "controlnet")),
        Family("chroma", _build_chroma, _chroma),
    )
}
