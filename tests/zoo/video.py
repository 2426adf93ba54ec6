"""Video and audio: Wan, LTX, HunyuanVideo, CogVideoX, AnimateDiff, Stable Audio."""

from collections.abc import Callable
from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import LlamaConfig, LlamaModel

from .family import PROMPTS, Family, finish, generator, seeded, strengthen, variations
from .parts import clip_text, t5_text
from .stable_diffusion import _sd_vae, _unet
from .tokenizers import clip_tokenizer, t5_tokenizer


def _wan_transformer(**more: Any) -> WanTransformer3DModel:
    settings = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip
    transformer = WanTransformer3DModel(**settings | more)
    strengthen(transformer)
    return transformer


def _wan(**more: Any) -> Any:
    return finish(
        WanPipeline(
            transformer=_wan_transformer(),
            vae=AutoencoderKLWan(
                base_dim=8,  # of 3, one channel was left in its norms: the sign of what may be no more than rounding
                z_dim=16,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
            text_encoder=t5_text(),
            tokenizer=t5_tokenizer(),
            **more,
        )
    )


def _ltx() -> Any:
    return finish(
        LTXPipeline(
            transformer=LTXVideoTransformer3DModel(
                in_channels=8,
                out_channels=8,
                patch_size=1,
                patch_size_t=1,
                num_attention_heads=4,
                attention_head_dim=8,
                cross_attention_dim=32,
                num_layers=1,
                caption_channels=32,
            ),
            vae=AutoencoderKLLTXVideo(
                in_channels=3,
                out_channels=3,
                latent_channels=8,
                block_out_channels=(8, 8, 8, 8),
                decoder_block_out_channels=(8, 8, 8, 8),
                layers_per_block=(1, 1, 1, 1, 1),
                decoder_layers_per_block=(1, 1, 1, 1, 1),
                spatio_temporal_scaling=(True, True, False, False),
                decoder_spatio_temporal_scaling=(True, True, False, False),
                decoder_inject_noise=(False, False, False, False, False),
                upsample_residual=(False, False, False, False),
                upsample_factor=(1, 1, 1, 1),
                timestep_conditioning=False,
                patch_size=1,
                patch_size_t=1,
                encoder_causal=True,
                decoder_causal=False,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=t5_text(),
            tokenizer=t5_tokenizer(),
        )
    )


def _cogvideox() -> Any:
    return finish(
        CogVideoXPipeline(
            transformer=CogVideoXTransformer3DModel(
                num_attention_heads=4,
                attention_head_dim=8,
                in_channels=4,
                out_channels=4,
                time_embed_dim=2,
                text_embed_dim=32,
                num_layers=1,
                sample_width=2,
                sample_height=2,
                sample_frames=9,
                patch_size=2,
                temporal_compression_ratio=4,
                max_text_seq_length=16,
            ),
            vae=AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                temporal_compression_ratio=4,
            ),
            scheduler=CogVideoXDDIMScheduler(),
            text_encoder=t5_text(),
            tokenizer=t5_tokenizer(),
        )
    )


def _animatediff() -> Any:
    return finish(
        AnimateDiffPipeline(
            vae=_sd_vae(),
            text_encoder=clip_text(),
            tokenizer=clip_tokenizer(),
            unet=_unet(),
            motion_adapter=MotionAdapter(
                block_out_channels=(8, 16),
                motion_layers_per_block=1,
                motion_norm_num_groups=2,
                motion_num_attention_heads=4,
            ),
            scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1),
        )
    )


def _hunyuan() -> Any:
    return finish(
        HunyuanVideoPipeline(
            transformer=HunyuanVideoTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=10,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                patch_size=1,
                patch_size_t=1,
                guidance_embeds=True,
                text_embed_dim=16,
                pooled_projection_dim=32,
                rope_axes_dim=(2, 4, 4),
            ),
            vae=AutoencoderKLHunyuanVideo(
                latent_channels=4,
                down_block_types=("HunyuanVideoDownBlock3D",) * 4,
                up_block_types=("HunyuanVideoUpBlock3D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                scaling_factor=0.476986,
                spatial_compression_ratio=8,
                temporal_compression_ratio=4,
                mid_block_add_attention=True,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder=LlamaModel(
                LlamaConfig(
                    hidden_size=16,
                    intermediate_size=37,
                    num_attention_heads=4,
                    num_hidden_layers=2,
                    vocab_size=1000,
                    max_position_embeddings=512,
                )
            ),
            tokenizer=t5_tokenizer(),
            text_encoder_2=clip_text(),
            tokenizer_2=clip_tokenizer(),
        )
    )


def _stable_audio() -> Any:
    return finish(
        StableAudioPipeline(
            transformer=StableAudioDiTModel(
                sample_size=4,
                in_channels=3,
                num_layers=2,
                attention_head_dim=4,
                num_key_value_attention_heads=2,
                out_channels=3,
                cross_attention_dim=4,
                time_proj_dim=8,
                global_states_input_dim=8,
                cross_attention_input_dim=4,
            ),
            scheduler=CosineDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction", sigma_data=1.0),
            vae=AutoencoderOobleck(
                encoder_hidden_size=6,
                downsampling_ratios=[1, 2],
                decoder_channels=3,
                decoder_input_channels=3,
                audio_channels=2,
                channel_multiples=[2, 4],
                sampling_rate=4,
            ),
            text_encoder=t5_text(),
            tokenizer=t5_tokenizer(),
            projection_model=StableAudioProjectionModel(
                text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32
            ),
        )
    )


def _clips(num_frames: tuple[int, ...], sizes: tuple[tuple[int, int], ...], **common: Any) -> list[dict[str, Any]]:
    requests = variations(
        {"guidance_scale": 6.0, "negative_prompt": "blurry"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0},
        sizes=sizes,
        **common,
    )
    for number, request in enumerate(requests):
        request["num_frames"] = num_frames[number % len(num_frames)]
    return requests


def _sounds() -> list[dict[str, Any]]:
    return [
        {
            "prompt": PROMPTS[number] or "rain",
            "num_inference_steps": (3, 2, 4, 3, 2)[number],
            "guidance_scale": (7.0, 4.0, 2.0, 5.0, 3.0)[number],
            "audio_end_in_s": 0.5 + 0.5 * (number % 2),
            "generator": generator(number),
            "output_type": "np",
        }
        for number in range(5)
    ]


def _build(make: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        with seeded():
            return make()

    return build


_FRAMES_5 = ((16, 16), (16, 32))
_BOTH = ("transformer", "transformer_2")
_ALL = (
    Family("wan", _build(_wan), lambda: _clips((5,), _FRAMES_5, max_sequence_length=16)),
    Family(
        "wan-2.2",
        _build(lambda: _wan(transformer_2=_wan_transformer(), boundary_ratio=0.875)),
        lambda: _clips((5,), _FRAMES_5, max_sequence_length=16),
        denoisers=_BOTH,
    ),
    Family("ltx", _build(_ltx), lambda: _clips((9, 9, 9, 17), ((32, 32), (32, 64)), max_sequence_length=16)),
    Family("cogvideox", _build(_cogvideox), lambda: _clips((9,), ((16, 16),), max_sequence_length=16)),
    Family(
        "hunyuan-video",
        _build(_hunyuan),
        lambda: _clips(
            (5,),
            ((16, 16), (16, 32)),
            max_sequence_length=16,
            prompt_template={"template": "{}", "crop_start": 0},
            true_cfg_scale=2.0,
        ),
    ),
    Family("animatediff", _build(_animatediff), lambda: _clips((4, 4, 4, 2), ((16, 16),)), denoisers=("unet",)),
    Family("stable-audio", _build(_stable_audio), _sounds),
)
FAMILIES = {family.name: family for family in _ALL}
