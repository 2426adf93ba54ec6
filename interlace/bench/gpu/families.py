"""The four families that are measured, from their published configurations, and tiny ones of the same classes.

No text encoder, no tokenizer, no file: requests bring random prompt embeddings of the right shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from interlace.bench.gpu.weights import random_module

Guidance = Literal["distilled", "cfg", "true_cfg"]
Config = Mapping[str, object]


@dataclass(frozen=True)
class RandomPart:
    """A module of a pipeline: its class, its configuration, and what differs in the tiny one."""

    kind: type[torch.nn.Module]
    config: Config
    tiny: Config


@dataclass(frozen=True)
class TextShape:
    """What text encoders would return: tokens and their width, the pooled vector's width, whether a mask says which
    tokens count (then prompts differ in length)."""

    tokens: int
    width: int
    pooled: int = 0
    masked: bool = False


@dataclass(frozen=True)
class GpuFamily:
    """One model of the check. `sizes` are pixels a side: small, large."""

    name: str
    pipeline: type[DiffusionPipeline]
    denoiser: str
    parts: Mapping[str, RandomPart]
    scheduler: tuple[type[Any], Config]
    text: TextShape
    guidance: Guidance
    left_out: tuple[
        str, ...
    ]  # arguments of the pipeline's class that stay None: text encoders and what belongs to them
    tiny_text: TextShape = field(default=TextShape(12, 32, 32))

    def build(self, device: torch.device, dtype: torch.dtype, *, tiny: bool) -> DiffusionPipeline:
        """The pipeline with random weights, on `device`, its progress bar off."""
        modules: dict[str, object] = dict.fromkeys(self.left_out)
        for name, part in self.parts.items():
            config = {**part.config, **part.tiny} if tiny else part.config
            modules[name] = random_module(part.kind, config, device, dtype)
        kind, config = self.scheduler
        pipeline = self.pipeline(scheduler=kind(**config), **modules)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sizes(self, *, tiny: bool) -> tuple[int, int]:
        """Pixels a side."""
        return (32, 64) if tiny else (512, 1024)

    def texts(self, *, tiny: bool) -> TextShape:
        """Of this or the tiny model."""
        return self.tiny_text if tiny else self.text


_TINY_VAE: Config = {
    "sample_size": 32,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


def _vae(latent_channels: int, scaling: float, shift: float | None, *, quantized: bool) -> RandomPart:
    blocks = 4
    config: Config = {
        "sample_size": 1024,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "layers_per_block": 2,
        "latent_channels": latent_channels,
        "scaling_factor": scaling,
        "shift_factor": shift,
        "use_quant_conv": quantized,
        "use_post_quant_conv": quantized,
    }
    return RandomPart(AutoencoderKL, config, _TINY_VAE)


_FLUX = GpuFamily(
    name="flux.1-dev",
    pipeline=FluxPipeline,
    denoiser="transformer",
    parts={
        "transformer": RandomPart(
            FluxTransformer2DModel,
            {"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
             "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
             "guidance_embeds": True, "axes_dims_rope": (16, 56, 56)},
            {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
             "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
             "axes_dims_rope": (4, 4, 8)},
        ),
        "vae": _vae(16, 0.3611, 0.1159, quantized=False),
    },
    scheduler=(FlowMatchEulerDiscreteScheduler,
               {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
                "base_image_seq_len": 256, "max_image_seq_len": 4096}),
    text=TextShape(512, 4096, 768),
    guidance="distilled",
    left_out=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
)  # fmt: skip

_SDXL = GpuFamily(
    name="sdxl",
    pipeline=StableDiffusionXLPipeline,
    denoiser="unet",
    parts={
        "unet": RandomPart(
            UNet2DConditionModel,
            {"sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280),
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
             "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2,
             "cross_attention_dim": 2048, "transformer_layers_per_block": (1, 2, 10),
             "attention_head_dim": (5, 10, 20), "use_linear_projection": True, "addition_embed_type": "text_time",
             "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
            {"sample_size": 32, "block_out_channels": (8, 16, 16), "layers_per_block": 1, "cross_attention_dim": 32,
             "transformer_layers_per_block": (1, 1, 1), "attention_head_dim": (2, 2, 2), "norm_num_groups": 4,
             "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80},
        ),
        "vae": _vae(4, 0.13025, None, quantized=True),
    },
    scheduler=(EulerDiscreteScheduler,
               {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
                "timestep_spacing": "leading"}),
    text=TextShape(77, 2048, 1280),
    guidance="cfg",
    left_out=("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)  # fmt: skip

_SD3 = GpuFamily(
    name="sd3.5-medium",
    pipeline=StableDiffusion3Pipeline,
    denoiser="transformer",
    parts={
        "transformer": RandomPart(
            SD3Transformer2DModel,
            {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
             "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
             "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
             "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
            {"sample_size": 32, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
             "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 32,
             "pooled_projection_dim": 32, "pos_embed_max_size": 64, "dual_attention_layers": (0,)},
        ),
        "vae": _vae(16, 1.5305, 0.0609, quantized=False),
    },
    scheduler=(FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    text=TextShape(333, 4096, 2048),
    guidance="cfg",
    left_out=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
)  # fmt: skip

_QWEN = GpuFamily(
    name="qwen-image",
    pipeline=QwenImagePipeline,
    denoiser="transformer",
    parts={
        "transformer": RandomPart(
            QwenImageTransformer2DModel,
            {"patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
             "num_attention_heads": 24, "joint_attention_dim": 3584, "guidance_embeds": False,
             "axes_dims_rope": (16, 56, 56)},
            {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
             "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (8, 4, 4)},
        ),
        "vae": RandomPart(
            AutoencoderKLQwenImage,
            {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
             "temperal_downsample": [False, True, True]},
            {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1,
             "temperal_downsample": [False, True], "latents_mean": [0.1, -0.1, 0.2, 0.0],
             "latents_std": [1.0, 0.9, 1.1, 1.0]},
        ),
    },
    scheduler=(FlowMatchEulerDiscreteScheduler,
               {"shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9,
                "base_image_seq_len": 256, "max_image_seq_len": 8192, "shift_terminal": 0.02}),
    text=TextShape(60, 3584, masked=True),
    guidance="true_cfg",
    left_out=("text_encoder", "tokenizer"),
    tiny_text=TextShape(12, 32, masked=True),
)  # fmt: skip

FAMILIES: dict[str, GpuFamily] = {family.name: family for family in (_FLUX, _SDXL, _SD3, _QWEN)}
