"""Other diffusion transformers for pictures."""

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    BriaPipeline,
    BriaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

from . import dit_more
from .family import Family, finish, picture, seeded, strengthen, variations
from .parts import deep_vae, qwen3, t5_text, vae
from .tokenizers import bert_tokenizer, causal_tokenizer, qwen_tokenizer, t5_tokenizer

_LARGE = ((64, 64), (96, 64))


def gemma2() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            vocab_size=200,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def _build_pixart() -> Any:
    with seeded():
        return finish(
            PixArtSigmaPipeline(
                tokenizer=t5_tokenizer(),
                text_encoder=t5_text(),
                vae=vae(shift_factor=None),
                transformer=PixArtTransformer2DModel(
                    sample_size=16,
                    num_layers=2,
                    patch_size=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    caption_channels=32,
                    in_channels=4,
                    out_channels=8,
                    cross_attention_dim=16,
                    use_additional_conditions=False,
                ),
                scheduler=DPMSolverMultistepScheduler(),
            )
        )


def _pixart() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.5, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 7.0, "negative_prompt": "dark"},
        {"guidance_scale": 4.5},
        {"guidance_scale": 3.0, "max_sequence_length": 64},
        use_resolution_binning=False,
        clean_caption=False,
        max_sequence_length=48,
    )


def _build_sana() -> Any:
    with seeded():
        coder = AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
        return finish(
            SanaPipeline(
                tokenizer=causal_tokenizer(),
                text_encoder=gemma2(),
                vae=coder,
                transformer=SanaTransformer2DModel(
                    patch_size=1,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=8,
                    cross_attention_dim=16,
                    caption_channels=16,
                    sample_size=16,
                ),
                scheduler=DPMSolverMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
            )
        )


def _sana() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.5, "negative_prompt": "blurry"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 6.0, "complex_human_instruction": ["a painting of:"]},
        {"guidance_scale": 3.0, "max_sequence_length": 64},
        use_resolution_binning=False,
        complex_human_instruction=[],
        max_sequence_length=48,
        sizes=((32, 32), (64, 32)),
    )


def _build_z_image(pipeline: type = ZImagePipeline) -> Any:
    with seeded():
        transformer = ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[512, 64, 64],
        )
        with torch.no_grad():
            transformer.x_pad_token.normal_()
            transformer.cap_pad_token.normal_()
        return finish(
            pipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=vae(),
                text_encoder=Qwen3Model(qwen3()),
                tokenizer=qwen_tokenizer(),
                transformer=transformer,
            )
        )


def _z_image() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0, "negative_prompt": "blurry"},
        {"guidance_scale": 0.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 5.0, "cfg_normalization": True, "negative_prompt": "dark, noisy, low quality"},
        {"guidance_scale": 0.0},
        {"guidance_scale": 4.0, "cfg_truncation": 0.5},
        max_sequence_length=160,
    )


def _z_image_img2img() -> list[dict[str, Any]]:
    """All but the second skip a step: with none skipped, only noise goes in, and the picture does not matter."""
    return variations(
        {"image": picture(1, 32), "strength": 0.6, "guidance_scale": 4.0, "negative_prompt": "blurry"},
        {"image": picture(2, (32, 48)), "strength": 1.0, "guidance_scale": 0.0},
        {"image": picture(3, 32), "strength": 0.5, "guidance_scale": 3.0},
        {"image": picture(4, (32, 48)), "strength": 0.4, "guidance_scale": 5.0},
        {"image": picture(5, 32), "strength": 0.7, "guidance_scale": 0.0},
        max_sequence_length=160,
    )


def _build_lumina2() -> Any:
    with seeded():
        return finish(
            Lumina2Pipeline(
                transformer=Lumina2Transformer2DModel(
                    sample_size=16,
                    patch_size=2,
                    in_channels=4,
                    hidden_size=32,
                    num_layers=2,
                    num_refiner_layers=1,
                    num_attention_heads=2,
                    num_kv_heads=1,
                    multiple_of=16,
                    axes_dim_rope=(8, 4, 4),
                    axes_lens=(300, 64, 64),
                    cap_feat_dim=16,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=deep_vae(),
                text_encoder=gemma2(),
                tokenizer=causal_tokenizer(),
            )
        )


def _lumina2() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0, "cfg_trunc_ratio": 0.5},
        {"guidance_scale": 1.0},
        {"guidance_scale": 5.0, "cfg_normalization": False},
        {"guidance_scale": 3.0, "system_prompt": "a photo"},
        max_sequence_length=128,
        sizes=_LARGE,
    )


def _build_cogview4() -> Any:
    with seeded():
        built = CogView4Pipeline(
            tokenizer=causal_tokenizer(side="left"),
            text_encoder=GlmModel(
                GlmConfig(
                    vocab_size=200,
                    hidden_size=32,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=8,
                    pad_token_id=0,
                    eos_token_id=2,
                )
            ),
            vae=vae(),
            transformer=CogView4Transformer2DModel(
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                text_embed_dim=32,
                time_embed_dim=16,
                condition_dim=8,
                rope_axes_dim=(16, 16),
                sample_size=16,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256
            ),
        )
        strengthen(built.transformer)
        return finish(built)


def _cogview4() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 5.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.5, "original_size": (64, 64), "crops_coords_top_left": (4, 8)},
        {"guidance_scale": 4.0},
        max_sequence_length=64,
    )


def _build_hunyuan_dit() -> Any:
    with seeded():
        return finish(
            HunyuanDiTPipeline(
                vae=deep_vae(shift_factor=None),
                text_encoder=BertModel(
                    BertConfig(
                        vocab_size=200,
                        hidden_size=32,
                        num_hidden_layers=2,
                        num_attention_heads=4,
                        intermediate_size=37,
                        max_position_embeddings=128,
                    )
                ),
                tokenizer=bert_tokenizer(),
                text_encoder_2=t5_text(),
                tokenizer_2=t5_tokenizer(256),
                transformer=HunyuanDiT2DModel(
                    sample_size=16,
                    num_layers=2,
                    patch_size=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    in_channels=4,
                    hidden_size=16,
                    cross_attention_dim=32,
                    cross_attention_dim_t5=32,
                    pooled_projection_dim=16,
                ),
                scheduler=DDPMScheduler(prediction_type="v_prediction"),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


def _hunyuan_dit() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 5.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.5, "guidance_rescale": 0.5},
        {"guidance_scale": 4.0, "crops_coords_top_left": (4, 8)},
        use_resolution_binning=False,
        sizes=_LARGE,
    )


def _build_aura_flow() -> Any:
    with seeded():
        built = AuraFlowPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=UMT5EncoderModel(
                UMT5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
            ),
            vae=vae(shift_factor=None),
            transformer=AuraFlowTransformer2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=4,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=32,
                out_channels=4,
                pos_embed_max_size=256,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
        strengthen(built.transformer, 3.0)
        strengthen(built.text_encoder, 2.0)
        return finish(built)


def _aura_flow() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 3.5, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 5.0, "negative_prompt": "dark"},
        {"guidance_scale": 4.0, "max_sequence_length": 64},
        max_sequence_length=48,
    )


def _build_bria() -> Any:
    with seeded():
        return finish(
            BriaPipeline(
                transformer=BriaTransformer2DModel(
                    patch_size=1,
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=None,
                    axes_dims_rope=[4, 4, 8],
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=vae(shift_factor=None),
                text_encoder=t5_text(),
                tokenizer=t5_tokenizer(),
            )
        )


def _bria() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 5.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0, "negative_prompt": ""},
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "negative_prompt": "dark", "normalize": True},
        {"guidance_scale": 4.0, "negative_prompt": "ugly", "clip_value": 1.0},
        max_sequence_length=48,
    )


def _build_ovis() -> Any:
    with seeded():
        return finish(
            OvisImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
                vae=vae(),
                text_encoder=Qwen3Model(qwen3()),
                tokenizer=qwen_tokenizer(),
                transformer=OvisImageTransformer2DModel(
                    patch_size=1,
                    in_channels=16,
                    out_channels=16,
                    num_layers=1,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    axes_dims_rope=(4, 4, 8),
                ),
            )
        )


def _ovis() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 5.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "negative_prompt": "dark"},
        {"guidance_scale": 3.0},
        max_sequence_length=256,
    )


FAMILIES = {
    family.name: family
    for family in (
        Family("pixart-sigma", _build_pixart, _pixart),
        Family("sana", _build_sana, _sana),
        Family("z-image", _build_z_image, _z_image),
        Family("z-image-img2img", lambda: _build_z_image(ZImageImg2ImgPipeline), _z_image_img2img),
        Family("lumina2", _build_lumina2, _lumina2),
        Family("cogview4", _build_cogview4, _cogview4),
        Family("hunyuan-dit", _build_hunyuan_dit, _hunyuan_dit),
        Family("aura-flow", _build_aura_flow, _aura_flow),
        Family("bria", _build_bria, _bria),
        Family("ovis-image", _build_ovis, _ovis),
    )
} | dit_more.FAMILIES
