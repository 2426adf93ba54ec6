"""An IP-Adapter with random weights for FLUX, also as a file, and what a request gives it."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .family import generator, seeded


def weights(transformer: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Equal ones at every call."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    layers = [name for name in transformer.attn_processors if not name.startswith("single_transformer_blocks")]
    with seeded():
        image = ImageProjection(
            cross_attention_dim=config.joint_attention_dim,
            image_embed_dim=config.pooled_projection_dim,
            num_image_text_embeds=4,
        ).state_dict()
        attention = {
            f"{number}.{name.replace('.0.', '.')}": 3 * value
            for number, _ in enumerate(layers)
            for name, value in FluxIPAdapterAttnProcessor(width, config.joint_attention_dim).state_dict().items()
        }
    projection = {name.replace("image_embeds", "proj"): value for name, value in image.items()}
    return {"image_proj": projection, "ip_adapter": attention}


def load_ip_adapter(pipeline: Any) -> None:
    """As `pipeline.load_ip_adapter` does, from weights that are made here."""
    with torch.no_grad():
        pipeline.transformer._load_ip_adapter_weights([weights(pipeline.transformer)])


def save_flux_ip_adapter(pipeline: Any, folder: Path) -> None:
    """`flux-ip.safetensors`, and its picture encoder beside it."""
    with seeded(5):
        config = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32,
            patch_size=16, projection_dim=pipeline.transformer.config.pooled_projection_dim,
        )  # fmt: skip
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    parts = weights(pipeline.transformer).items()
    tensors = {f"{part}.{name}": value.contiguous() for part, own in parts for name, value in own.items()}
    save_file(tensors, folder / "flux-ip.safetensors")


def seen(number: int) -> dict[str, Any]:
    """What a request shows the adapter."""
    return {
        "ip_adapter_image_embeds": [torch.randn(1, 1, 32, generator=generator(number))],
        "negative_ip_adapter_image_embeds": [torch.zeros(1, 1, 32)],
    }
