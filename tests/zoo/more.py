"""Pipelines of other kinds: without prompts, by class label, distilled, and one that hooks the UNet in mid-call."""

from typing import Any

from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionSAGPipeline,
    UNet2DModel,
)

from .family import Family, finish, generator, seeded, variations
from .parts import vae
from .stable_diffusion import _BETAS, _sd, _unet


def _pixels() -> UNet2DModel:
    return UNet2DModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def _ddpm() -> Any:
    with seeded():
        return finish(DDPMPipeline(unet=_pixels(), scheduler=DDPMScheduler()))


def _ddim() -> Any:
    with seeded():
        return finish(DDIMPipeline(unet=_pixels(), scheduler=DDIMScheduler()))


def _dit() -> Any:
    with seeded():
        transformer = DiTTransformer2DModel(
            sample_size=16, num_layers=2, patch_size=4, attention_head_dim=8, num_attention_heads=2, in_channels=4,
            out_channels=8, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
            norm_type="ada_norm_zero", norm_elementwise_affine=False,
        )  # fmt: skip
        return finish(DiTPipeline(transformer=transformer, vae=vae(shift_factor=None), scheduler=DDIMScheduler()))


def _lcm() -> Any:
    with seeded():
        pipeline = _sd(LatentConsistencyModelPipeline, LCMScheduler(**_BETAS, steps_offset=1))
        pipeline.unet = _unet(time_cond_proj_dim=32)
        return finish(pipeline)


def _sag() -> Any:
    with seeded():
        return _sd(StableDiffusionSAGPipeline)


def _samples(**extra: Any) -> list[dict[str, Any]]:
    """Requests without a prompt; the values of `extra` are made from a request's number."""
    return [
        {
            "generator": generator(number),
            "num_inference_steps": 2 + number % 3,
            "output_type": "np",
            **{name: make(number) for name, make in extra.items()},
        }
        for number in range(5)
    ]


_UNET = ("unet",)
_ALL = (
    Family("ddpm", _ddpm, _samples, denoisers=_UNET),
    Family("ddim", _ddim, lambda: _samples(eta=lambda n: 0.2 * n), denoisers=_UNET),
    Family("dit", _dit, lambda: _samples(class_labels=lambda n: [n], guidance_scale=lambda n: 1.0 + n)),
    Family(
        "latent-consistency",
        _lcm,
        lambda: variations(*({"guidance_scale": 1.0 + n} for n in range(5))),
        denoisers=_UNET,
    ),
    Family(
        "self-attention-guidance",
        _sag,
        lambda: variations(*({"sag_scale": 0.3 * n} for n in range(4)), sizes=((64, 64),)),
        shares=False,
        note="hooks the shared UNet in mid-call",
        denoisers=_UNET,
    ),
)
FAMILIES = {family.name: family for family in _ALL}
