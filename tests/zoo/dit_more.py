"""Diffusion transformers that need more parts: HiDream, Lumina-Next, PRX, HunyuanImage."""

from typing import Any

from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PRXPipeline,
    PRXTransformer2DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5GemmaConfig,
    T5GemmaEncoder,
)

from .family import Family, finish, seeded, variations
from .parts import deep_vae, qwen_vl, t5_text, vae
from .tokenizers import causal_tokenizer, clip_tokenizer, qwen_tokenizer, t5_tokenizer


def _clip() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=200,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=32,
            max_position_embeddings=218,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def _build_hidream() -> Any:
    with seeded():
        transformer = HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 16],
            text_emb_dim=64,
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=(0, 1),
        )
        for name, parameter in transformer.named_parameters():
            if name.endswith("gate.weight"):
                parameter.data.normal_(0.0, 0.2)
        built = HiDreamImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae(),
            text_encoder=_clip(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=_clip(),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=t5_text(),
            tokenizer_3=t5_tokenizer(),
            text_encoder_4=LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=200,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=256,
                    attn_implementation="eager",
                )
            ),
            tokenizer_4=causal_tokenizer(),
            transformer=transformer,
        )
        # Every size is scaled to the area of this sample.
        built.default_sample_size = 16
        return finish(built)


def _hidream() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 5.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 0.0},
        {"guidance_scale": 3.0, "prompt_4": "oil painting"},
        {"guidance_scale": 4.0},
        max_sequence_length=48,
        sizes=((32, 32), (48, 24)),
    )


def _build_lumina_next() -> Any:
    with seeded():
        built = LuminaPipeline(
            transformer=LuminaNextDiT2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=4,
                hidden_size=24,
                num_layers=2,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=16,
                learn_sigma=True,
                qk_norm=True,
                cross_attention_dim=16,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=deep_vae(shift_factor=None),
            text_encoder=GemmaModel(
                GemmaConfig(
                    vocab_size=200,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=8,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                )
            ),
            tokenizer=causal_tokenizer(),
        )
        built.transformer.pad_token.data.normal_()
        return finish(built)


def _lumina_next() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 5.0, "scaling_watershed": 0.3},
        {"guidance_scale": 3.0, "proportional_attn": False},
        clean_caption=False,
        max_sequence_length=64,
        sizes=((64, 64), (96, 64)),
    )


def _build_prx() -> Any:
    module = {
        "vocab_size": 200,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "layer_types": ["full_attention", "full_attention"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with seeded():
        return finish(
            PRXPipeline(
                transformer=PRXTransformer2DModel(
                    in_channels=4,
                    patch_size=2,
                    context_in_dim=16,
                    hidden_size=32,
                    mlp_ratio=2.0,
                    num_heads=2,
                    depth=2,
                    axes_dim=[8, 8],
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                text_encoder=T5GemmaEncoder(T5GemmaConfig(encoder=module, decoder=module).encoder),
                tokenizer=causal_tokenizer(64),
                vae=deep_vae(),
            )
        )


def _prx() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 5.0, "skip_text_cleaning": True},
        {"guidance_scale": 3.0},
        use_resolution_binning=False,
        sizes=((64, 64), (96, 64)),
    )


def _build_hunyuan_image(distilled: bool) -> Any:
    with seeded():
        guider = None if distilled else AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2)
        ocr = None if distilled else AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3)
        built = HunyuanImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            vae=AutoencoderKLHunyuanImage(
                in_channels=3,
                out_channels=3,
                latent_channels=4,
                block_out_channels=(32, 32, 32),
                layers_per_block=1,
                scaling_factor=0.476986,
                spatial_compression_ratio=4,
                sample_size=64,
            ),
            text_encoder=qwen_vl(),
            tokenizer=qwen_tokenizer(),
            text_encoder_2=t5_text(vocabulary=400),
            tokenizer_2=ByT5Tokenizer(),
            transformer=HunyuanImageTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                patch_size=(1, 1),
                guidance_embeds=distilled,
                text_embed_dim=16,
                text_embed_2_dim=32,
                rope_axes_dim=(4, 4),
            ),
            guider=guider,
            ocr_guider=ocr,
        )
        prefix = built.prompt_template_encode.split("{}")[0]
        built.prompt_template_encode_start_idx = len(built.tokenizer(prefix).input_ids)
        built.tokenizer_max_length = 128
        return finish(built)


def _hunyuan_image(distilled: bool) -> list[dict[str, Any]]:
    guided = {"negative_prompt": None if distilled else "blurry, ugly"}
    return variations(
        guided,
        {},
        {"prompt": 'a sign that says "open"', **guided},
        {"distilled_guidance_scale": 2.0 if distilled else None},
        {"prompt": 'a house with "a red fox" written on it'},
        {"height": 64},
        distilled_guidance_scale=3.5 if distilled else None,
    )


FAMILIES = {
    family.name: family
    for family in (
        Family("hidream", _build_hidream, _hidream),
        Family("lumina-next", _build_lumina_next, _lumina_next),
        Family("prx", _build_prx, _prx),
        Family(
            "hunyuan-image", lambda: _build_hunyuan_image(False), lambda: _hunyuan_image(False), note="uses a guider"
        ),
        Family("hunyuan-image-distilled", lambda: _build_hunyuan_image(True), lambda: _hunyuan_image(True)),
    )
}
