"""FLUX.2, with and without reference pictures, and FLUX.2 Klein."""

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Qwen3ForCausalLM

from .family import Family, finish, picture, seeded, strengthen, variations
from .parts import qwen3
from .tokenizers import qwen_tokenizer


def _vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.bn.running_mean.normal_(0.0, 0.1)
    vae.bn.running_var.uniform_(0.8, 1.2)
    return vae


def _transformer(guidance: bool) -> Flux2Transformer2DModel:
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    strengthen(transformer)
    return transformer


def _mistral() -> Mistral3ForConditionalGeneration:
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 24,
            "max_position_embeddings": 1024,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": None,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": 30,
            "patch_size": 6,
        },
        image_token_index=262,
    )
    return Mistral3ForConditionalGeneration(config)


def _build_flux2() -> Any:
    with seeded():
        built = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=_vae(),
            text_encoder=_mistral(),
            tokenizer=qwen_tokenizer(),
            transformer=_transformer(True),
        )
        # The stock message alone would fill the short sequences of the requests.
        built.system_message = "Draw."
        return finish(built)


def _build_klein(distilled: bool) -> Any:
    with seeded():
        return finish(
            Flux2KleinPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
                vae=_vae(),
                text_encoder=Qwen3ForCausalLM(qwen3()),
                tokenizer=qwen_tokenizer(),
                transformer=_transformer(False),
                is_distilled=distilled,
            )
        )


_COMMON = {"max_sequence_length": 160, "text_encoder_out_layers": (1, 2)}


def _flux2() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0},
        {"guidance_scale": 2.5},
        {"guidance_scale": 1.0, "image": picture(1, 64)},
        {"guidance_scale": 3.0, "image": [picture(2, (80, 64)), picture(3, 64)]},
        {"guidance_scale": 5.0},
        {"guidance_scale": 3.5, "image": picture(4, (64, 72)), "height": None, "width": None},
        **_COMMON,
    )


def _klein() -> list[dict[str, Any]]:
    return variations(
        {"guidance_scale": 4.0},
        {"guidance_scale": 2.5},
        {"guidance_scale": 1.0, "image": picture(1, 64)},
        {"guidance_scale": 3.0, "image": [picture(2, (80, 64)), picture(3, 64)]},
        {"guidance_scale": 5.0},
        {"guidance_scale": 1.0},
        **_COMMON,
    )


FAMILIES = {
    family.name: family
    for family in (
        Family("flux2", _build_flux2, _flux2),
        Family("flux2-klein", lambda: _build_klein(True), _klein, note="distilled: no guidance"),
        Family("flux2-klein-base", lambda: _build_klein(False), _klein),
    )
}
