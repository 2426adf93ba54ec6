"""Files such as people have, written from tiny pipelines: one-file checkpoints in the original names, GGUF, LoRA."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_sd15(pipeline: DiffusionPipeline, path: Path) -> None:
    """A Stable Diffusion 1.5 pipeline as one file with the original's names."""
    layers = pipeline.unet.config.layers_per_block
    levels = len(pipeline.vae.config.block_out_channels)
    tensors = {f"model.diffusion_model.{_unet_name(k, layers)}": v for k, v in pipeline.unet.state_dict().items()}
    for name, value in pipeline.vae.state_dict().items():
        other = f"first_stage_model.{_vae_name(name, levels)}"
        tensors[other] = value[..., None, None] if ".attn_1." in other and value.ndim == 2 else value
    for name, value in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)


def _unet_name(name: str, layers: int) -> str:
    start = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    for ours, theirs in start.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, number, rest = found.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{rest if kind == 'attentions' else _renamed(rest, _RESNET)}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    assert found is not None, name
    side, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    down = side == "down"
    place = (layers + 1) * block + number + (1 if down else 0)
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (block + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * block + layers}.{2 if block == 0 else 1}.{rest}"
    inner = f"0.{_renamed(rest, _RESNET)}" if kind == "resnets" else f"1.{rest}"
    return f"{'input' if down else 'output'}_blocks.{place}.{inner}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        head, rest = name.split("mid_block.attentions.0.")
        return f"{head}mid.attn_1.{_renamed(rest, _VAE_ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        if rest.startswith(ours + "."):
            return theirs + rest.removeprefix(ours)
    return rest


def save_gguf(module: torch.nn.Module, path: Path, architecture: str = "flux") -> None:
    """A module's weights as GGUF: matrices whose rows are multiples of 32 as Q8_0, everything else as it is."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in module.state_dict().items():
        array = value.float().numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> Any:
    """As diffusers saves it."""
    pipeline.save_pretrained(folder)
    return pipeline


def save_kohya(unet: torch.nn.Module, path: Path, rank: int = 2) -> None:
    """An adapter of all queries and values in kohya's names, with an alpha of half its rank."""
    torch.manual_seed(1)
    tensors = {}
    for name, part in unet.named_modules():
        if isinstance(part, torch.nn.Linear) and name.endswith(("to_q", "to_v")):
            stem = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, part.in_features) / part.in_features**0.5
            tensors[f"{stem}.lora_up.weight"] = torch.randn(part.out_features, rank)
            tensors[f"{stem}.alpha"] = torch.tensor(rank / 2)
    save_file(tensors, path)


def save_dora(unet: torch.nn.Module, path: Path, rank: int = 2) -> None:
    """An adapter with magnitudes (DoRA) in peft's names: what can't be mixed row by row."""
    torch.manual_seed(2)
    tensors = {}
    for name, part in unet.named_modules():
        if isinstance(part, torch.nn.Linear) and name.endswith("to_q"):
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, part.in_features) / part.in_features**0.5
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(part.out_features, rank)
            tensors[f"unet.{name}.lora_magnitude_vector"] = 1.5 * part.weight.norm(dim=1)
    save_file(tensors, path)


def save_lycoris(unet: torch.nn.Module, path: Path, kind: str, rank: int = 2) -> dict[str, torch.Tensor]:
    """A LoHa ("hada") or a LoKr ("lokr") of all queries and feed-forwards, and LoHa of convolutions, too, in kohya's
    names. Returns what it adds to each weight, by the module's name."""
    torch.manual_seed(4)
    tensors, adds = {}, {}
    for name, part in unet.named_modules():
        if not name.endswith(("to_q", "net.2", "conv1") if kind == "hada" else ("to_q", "net.2")):
            continue
        out, width = part.weight.shape[0], part.weight[0].numel()
        if kind == "hada":
            own = {
                "hada_w1_a": torch.randn(out, rank),
                "hada_w1_b": torch.randn(rank, width) / width**0.5,
                "hada_w2_a": torch.randn(out, rank),
                "hada_w2_b": torch.randn(rank, width),
            }
            delta = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"]) / 2
        else:
            own = {
                "lokr_w1": torch.randn(2, 2),
                "lokr_w2_a": torch.randn(out // 2, rank),
                "lokr_w2_b": torch.randn(rank, width // 2) / width**0.5,
            }
            delta = torch.kron(own["lokr_w1"], own["lokr_w2_a"] @ own["lokr_w2_b"]) / 2
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{stem}.{key}": value for key, value in own.items()}
        tensors[f"{stem}.alpha"] = torch.tensor(rank / 2)
        adds[name] = delta.reshape(part.weight.shape)
    save_file(tensors, path)
    return adds


def save_ip_adapter(unet: Any, folder: Path, *, width: int = 8) -> None:
    """An IP-Adapter of four tokens for a tiny UNet, `ip.safetensors`, and its picture encoder beside it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=width,
    )  # fmt: skip
    torch.manual_seed(5)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    cross = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * cross, width),
        "image_proj.proj.bias": torch.randn(4 * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    sizes = {name: unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in crossing}
    for number, name in enumerate(unet.attn_processors):
        if name in sizes:
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = torch.randn(sizes[name], cross)
    save_file(tensors, folder / "ip.safetensors")
