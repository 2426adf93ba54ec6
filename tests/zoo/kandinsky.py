"""Kandinsky 2.2, prior and decoder combined: a pipeline that owns other pipelines. And Stable Cascade's decoder."""

from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
    StableCascadeDecoderPipeline,
    StableCascadeUNet,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from .family import Family, finish, generator, seeded, variations
from .stable_diffusion import _clip_projected
from .tokenizers import clip_tokenizer


def _prior() -> PriorTransformer:
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    prior.clip_std = torch.nn.Parameter(torch.ones(prior.clip_std.shape))
    return prior


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=8,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )


def _movq() -> VQModel:
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def _build() -> Any:
    with seeded():
        vision = CLIPVisionConfig(
            hidden_size=32, image_size=28, projection_dim=32, intermediate_size=37, num_attention_heads=4,
            num_hidden_layers=2, patch_size=14,
        )  # fmt: skip
        return finish(
            KandinskyV22CombinedPipeline(
                unet=_unet(),
                scheduler=DDPMScheduler(),
                movq=_movq(),
                prior_prior=_prior(),
                prior_image_encoder=CLIPVisionModelWithProjection(vision),
                prior_text_encoder=_clip_projected(),
                prior_tokenizer=clip_tokenizer(),
                prior_scheduler=UnCLIPScheduler(
                    variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000,
                    clip_sample_range=5.0,
                ),
                prior_image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28),
            )
        )  # fmt: skip


def _requests() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0, "negative_prompt": "blurry"},
        {"guidance_scale": 1.0, "prior_guidance_scale": 3.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 5.0, "negative_prompt": "ugly"},
        {"guidance_scale": 2.0, "prior_num_inference_steps": 3},
        sizes=((64, 64), (64, 128)),
        prior_num_inference_steps=2,
    )


def _cascade() -> Any:
    with seeded():
        decoder = StableCascadeUNet(
            in_channels=4,
            out_channels=4,
            conditioning_dim=32,
            block_out_channels=(16, 32),
            num_attention_heads=(-1, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            block_types_per_layer=(
                ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
            ),
            clip_text_pooled_in_channels=32,
            clip_seq=1,
            effnet_in_channels=4,
            pixel_mapper_in_channels=3,
            timestep_conditioning_type=("sca",),
        )
        return finish(
            StableCascadeDecoderPipeline(
                decoder=decoder,
                tokenizer=clip_tokenizer(),
                text_encoder=_clip_projected(),
                scheduler=DDPMWuerstchenScheduler(),
                vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=8, embed_dim=16),
                latent_dim_scale=2.0,
            )
        )


def _cascade_requests() -> list[dict[str, Any]]:
    seen = [torch.randn(1, 4, 4, 4, generator=generator(number)) for number in range(4)]
    return variations(
        {"image_embeddings": seen[0], "guidance_scale": 2.0, "negative_prompt": "blurry"},
        {"image_embeddings": seen[1], "guidance_scale": 0.0},
        {"image_embeddings": seen[2], "guidance_scale": 3.0},
        {"image_embeddings": seen[3], "guidance_scale": 1.5},
        height=None,
        width=None,
    )


FAMILIES = {
    "kandinsky-2.2": Family("kandinsky-2.2", _build, _requests, denoisers=("unet", "prior_prior")),
    "stable-cascade-decoder": Family("stable-cascade-decoder", _cascade, _cascade_requests, denoisers=("decoder",)),
}
