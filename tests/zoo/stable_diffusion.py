"""Stable Diffusion and its kin: several solvers, SDXL, SD3, img2img, inpainting, PAG, LoRA scales, ControlNet."""

from collections.abc import Callable
from typing import Any

from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from .family import Family, finish, mask, picture, randomise_zero_parameters, seeded, strengthen, variations
from .parts import clip_text, t5_text, vae
from .tokenizers import clip_tokenizer, t5_tokenizer

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_NEGATIVE = {"negative_prompt": "blurry, out of focus"}


def _unet(in_channels: int = 4, **settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": 16,
            "in_channels": in_channels,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            **settings,
        }
    )


def _xl_unet() -> UNet2DConditionModel:
    return _unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
    )


def _clip_projected() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig(**{**clip_text().config.to_dict(), "hidden_act": "gelu"}))


def _sd_vae() -> Any:
    return vae(use_quant_conv=True, use_post_quant_conv=True, shift_factor=None, scaling_factor=0.18)


def _sd(pipeline_class: type, scheduler: Any = None, in_channels: int = 4, **more: Any) -> Any:
    scheduler = scheduler or DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return finish(
        pipeline_class(
            vae=_sd_vae(),
            text_encoder=clip_text(),
            tokenizer=clip_tokenizer(),
            unet=_unet(in_channels),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **more,
        )
    )


def _xl(pipeline_class: type) -> Any:
    return finish(
        pipeline_class(
            vae=_sd_vae(),
            text_encoder=clip_text(),
            text_encoder_2=_clip_projected(),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(),
            unet=_xl_unet(),
            scheduler=EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1),
            add_watermarker=False,
        )
    )


def _lora() -> Any:
    pipeline = _xl(StableDiffusionXLPipeline)
    layers = ["to_q", "to_k", "to_v", "q_proj", "v_proj"]
    config = LoraConfig(r=2, target_modules=layers[:3], init_lora_weights=False)
    pipeline.unet.add_adapter(config)
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        # Not `add_adapter`, which asks transformers' own newest peft for the same injection.
        inject_adapter_in_model(LoraConfig(r=2, target_modules=layers[3:], init_lora_weights=False), encoder)
    return finish(pipeline)


def _sd3(pipeline_class: type = StableDiffusion3Pipeline, channels: int = 4, **settings: Any) -> Any:
    return finish(
        pipeline_class(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=_clip_projected(),
            text_encoder_2=_clip_projected(),
            text_encoder_3=t5_text(),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(),
            tokenizer_3=t5_tokenizer(),
            transformer=SD3Transformer2DModel(
                **{
                    "sample_size": 32,
                    "patch_size": 1,
                    "in_channels": channels,
                    "num_layers": 1,
                    "attention_head_dim": 8,
                    "num_attention_heads": 4,
                    "joint_attention_dim": 32,
                    "caption_projection_dim": 32,
                    "pooled_projection_dim": 64,
                    "out_channels": channels,
                    **settings,
                }
            ),
            vae=vae(channels),
        )
    )


def _sd35(pipeline_class: type = StableDiffusion3Pipeline) -> Any:
    """As SD 3.5: patches of 2, dual attention, normed queries and keys."""
    return _sd3(pipeline_class, 16, patch_size=2, num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm")


def _control() -> ControlNetModel:
    control = ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(2, 4),
        cross_attention_dim=32,
        norm_num_groups=4,
        attention_head_dim=4,
    )
    strengthen(control.controlnet_cond_embedding, 4.0)
    return control


def controlnet(seed: int) -> ControlNetModel:
    """One for the tiny Stable Diffusion, by itself."""
    with seeded(seed):
        control = _control()
        randomise_zero_parameters(control)
        return control.eval()


def tiny(*, crossing_first: bool = False) -> Any:
    """The tiny Stable Diffusion, with a DDIM solver; its first block may be one that attends to the text, as in 1.5."""
    pipeline = FAMILIES["sd15-ddim"].build()
    if crossing_first:
        with seeded(4):
            blocks = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
            pipeline.register_modules(unet=_unet(down_block_types=blocks[0], up_block_types=blocks[1]).eval())
            randomise_zero_parameters(pipeline.unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _controlnet() -> Any:
    return _sd(StableDiffusionControlNetPipeline, controlnet=_control())


def _texts(**common: Any) -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 7.5, **_NEGATIVE},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 5.0, **_NEGATIVE},
        {"guidance_scale": 9.0},
        {"guidance_scale": 2.0},
        **common,
    )


def _pictures(*, sized: bool = False, **extra: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Requests with a picture each; `extra` makes further arguments from the request's number."""
    requests = _texts() if sized else _texts(height=None, width=None)
    for number, request in enumerate(requests):
        size = (32, 48) if number % 2 else (32, 32)
        request |= {"image": picture(number, size), **{name: make(number) for name, make in extra.items()}}
        if sized:
            request |= {"height": size[1], "width": size[0]}
    return requests


def _build(make: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        with seeded():
            return make()

    return build


def _family(name: str, make: Callable[[], Any], requests: Callable[[], list[dict[str, Any]]], **more: Any) -> Family:
    return Family(name, _build(make), requests, **{"denoisers": ("unet",), **more})


def _lora_requests() -> list[dict[str, Any]]:
    requests = _texts()
    for number, request in enumerate(requests):
        if number in (2, 3):  # the others share the adapter's own scale
            request["cross_attention_kwargs"] = {"scale": 0.3 * number}
    return requests


_ALL = (
    _family("sd15-ddim", lambda: _sd(StableDiffusionPipeline), _texts),
    _family(
        "sd15-euler", lambda: _sd(StableDiffusionPipeline, EulerDiscreteScheduler(**_BETAS, steps_offset=1)), _texts
    ),
    _family(
        "sd15-dpm", lambda: _sd(StableDiffusionPipeline, DPMSolverMultistepScheduler(**_BETAS, steps_offset=1)), _texts
    ),
    _family(
        "sd15-img2img",
        lambda: _sd(StableDiffusionImg2ImgPipeline),
        lambda: _pictures(strength=lambda n: 0.6 + 0.05 * n),
    ),
    _family(
        "sd15-inpaint",
        lambda: _sd(StableDiffusionInpaintPipeline, in_channels=9),
        lambda: _pictures(sized=True, mask_image=lambda n: mask(n, (32, 48) if n % 2 else (32, 32))),
    ),
    _family(
        "instruct-pix2pix",
        lambda: _sd(StableDiffusionInstructPix2PixPipeline, in_channels=8),
        lambda: _pictures(image_guidance_scale=lambda n: 1.0 + 0.2 * n),
    ),
    _family("sd15-controlnet", _controlnet, lambda: _pictures(sized=True), denoisers=("unet", "controlnet")),
    _family("sd15-pag", lambda: _sd(StableDiffusionPAGPipeline, pag_applied_layers=["mid"]), _texts),
    _family("sdxl", lambda: _xl(StableDiffusionXLPipeline), _texts),
    _family("sdxl-img2img", lambda: _xl(StableDiffusionXLImg2ImgPipeline), lambda: _pictures(strength=lambda n: 0.8)),
    _family("sdxl-lora-scales", _lora, _lora_requests),
    _family("sd3", _sd3, _texts, denoisers=("transformer",)),
    _family("sd3.5", _sd35, _texts, denoisers=("transformer",)),
    _family(
        "sd3.5-img2img",
        lambda: _sd35(StableDiffusion3Img2ImgPipeline),
        lambda: _pictures(sized=True, strength=lambda n: 0.8),
        denoisers=("transformer",),
    ),
    _family(
        "sd3.5-inpaint",
        lambda: _sd35(StableDiffusion3InpaintPipeline),
        lambda: _pictures(
            sized=True, strength=lambda n: 0.8, mask_image=lambda n: mask(n, (32, 48) if n % 2 else (32, 32))
        ),
        denoisers=("transformer",),
    ),
)
FAMILIES = {family.name: family for family in _ALL}
