"""A FLUX pipeline of a few thousand random weights with byte-level tokenizers, saved to a directory like any model."""

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

_CHARACTERS = string.ascii_lowercase + string.digits + ",.-'"


def tiny_flux() -> FluxPipeline:
    """Equal weights at every call; in evaluation mode, float32."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.6,
    )
    clip = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=2,
    )
    t5 = T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=CLIPTextModel(clip).eval(),
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer.eval(),
        vae=vae.eval(),
    )


def save_tiny_flux(folder: Path) -> Path:
    """A model directory with small defaults, so that a request takes a blink."""
    tiny_flux().save_pretrained(folder)
    defaults = {"height": 32, "width": 32, "num_inference_steps": 3, "max_sequence_length": 32}
    settings = {"defaults": {"FluxPipeline": defaults}, "limits": {"multiple_of": 4, "max_size": 128}}
    (folder / "interlace.json").write_text(json.dumps(settings))
    return folder


def _clip_tokenizer() -> CLIPTokenizer:
    tokens = ["<|startoftext|>", "<|endoftext|>", *_CHARACTERS, *(f"{character}</w>" for character in _CHARACTERS)]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=32)


def _t5_tokenizer() -> T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    return T5Tokenizer(
        vocab=[*special, *((character, -3.0) for character in _CHARACTERS)], extra_ids=0, model_max_length=32
    )
