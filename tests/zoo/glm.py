"""GLM-Image: a language model writes a coarse grid of tokens, a transformer draws from it."""

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel
from transformers import GlmImageConfig, GlmImageForConditionalGeneration
from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil
from transformers.models.glm_image.processing_glm_image import GlmImageProcessor

from .family import finish, seeded, strengthen, variations
from .parts import deep_vae, t5_text
from .tokenizers import QWEN_SPECIAL, qwen_tokenizer, t5_tokenizer

_EXTRA = ("<|image|>", "<|grid|>", "<|/grid|>", "<|picture|>", "<|/picture|>")
_ID = {token: 256 + len(QWEN_SPECIAL) + number for number, token in enumerate(_EXTRA)}
_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|picture|><|image|><|/picture|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


class SmallPreview(GlmImageProcessor):
    """The preview that precedes a picture has 16 by 16 tokens, however small the picture: here 2 by 2."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)

    def _get_target_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        return height // 32, width // 32, 2, 2


def build_glm() -> Any:
    tokenizer = qwen_tokenizer(extra=_EXTRA, side="left")
    tokenizer.bos_token = "<|picture|>"
    tokenizer.image_token, tokenizer.grid_bos_token, tokenizer.grid_eos_token = _EXTRA[:3]
    processor = SmallPreview(
        image_processor=GlmImageImageProcessorPil(
            patch_size=16, merge_size=1, min_pixels=32 * 32, max_pixels=128 * 128, temporal_patch_size=1
        ),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
    )
    config = GlmImageConfig(
        text_config={
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "vision_vocab_size": 64,
            "rope_parameters": {"mrope_section": (4, 2, 2), "rope_type": "default", "rope_theta": 10000.0},
            "pad_token_id": 256,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "intermediate_size": 32,
        },
        vq_config={"embed_dim": 32, "num_embeddings": 64, "latent_channels": 32},
        image_token_id=_ID["<|image|>"],
        image_start_token_id=_ID["<|picture|>"],
        image_end_token_id=_ID["<|/picture|>"],
    )
    with seeded():
        language = GlmImageForConditionalGeneration(config)
        strengthen(language, 6.0)
        language.generation_config.eos_token_id = None
        language.generation_config.pad_token_id = 256
        return finish(
            GlmImagePipeline(
                tokenizer=t5_tokenizer(),
                processor=processor,
                text_encoder=t5_text(),
                vision_language_encoder=language,
                vae=deep_vae(shift_factor=None, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
                transformer=GlmImageTransformer2DModel(
                    patch_size=2,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    text_embed_dim=32,
                    time_embed_dim=16,
                    condition_dim=8,
                    prior_vq_quantizer_codebook_size=64,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(),
            )
        )


def glm_requests() -> list[dict[str, Any]]:
    """Text only: with pictures, diffusers 0.42 and transformers 5.23 do not fit together."""
    return variations(
        {"guidance_scale": 1.5, "prompt": "a sign that says 'snow'"},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.5, "prompt": "two cats under 'a small blue boat'"},
        max_sequence_length=64,
        sizes=((64, 64), (96, 64)),
    )
