"""Trains a style for the demo model as a LoRA adapter: the same scenes, drawn in another way."""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image, ImageChops, ImageFilter
from safetensors.torch import load_file

from interlace.demo import MODELS
from interlace.demo.shapes import COLOURS, draw_background, draw_mask
from training.captions import caption
from training.common import Average, Bar, Budget, learning_rate
from training.scenes import SLIGHT, Scene, random_scene, render
from training.vae import to_tensor
from training.words import MAX_TOKENS

RANK = 8
NOISE_BIAS, HIGH_SHARE = 0.8, 0.3  # as the denoiser's own training ended: what goes where is decided early
CAPTION_DROPOUT = 0.15
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_mlp", "proj_out")


def outlined(scene: Scene, width: int = 128, height: int = 128) -> Image.Image:
    """The scene as line drawing: each thing's edge in its colour, its inside what lies behind."""
    backdrop = draw_background(scene.background.pattern, scene.background.colours, width, height)
    picture = Image.fromarray(backdrop.round().astype(np.uint8))
    line = min(width, height) * 0.028  # pixels
    for thing in scene.things:
        mask = draw_mask(thing.shape, thing.x, thing.y, thing.half, width, height)
        inside = mask.filter(ImageFilter.GaussianBlur(line)).point(lambda value: max(0, min(255, 10 * (value - 202))))
        picture.paste(COLOURS[thing.colour], (0, 0, width, height), ImageChops.subtract(mask, inside))
    return picture


def pastel(scene: Scene, width: int = 128, height: int = 128) -> Image.Image:
    """The scene in the same colours, more than half of each washed out to white."""
    picture = render(scene, width, height)
    return Image.blend(picture, Image.new("RGB", picture.size, (255, 255, 255)), 0.6)


STYLES: dict[str, Callable[[Scene, int, int], Image.Image]] = {"outline": outlined, "pastel": pastel}


class Examples:
    """Latents of styled scenes at 128 pixels a side, normalised as the pipeline has them, with their scenes."""

    def __init__(self, pipeline: FluxPipeline, style: str, count: int, seed: int) -> None:
        rng = random.Random(seed)
        self.scenes = [random_scene(rng, jitter=SLIGHT) for _ in range(count)]
        parts = []
        for start in range(0, count, 50):
            pictures = [np.asarray(STYLES[style](scene, 128, 128)) for scene in self.scenes[start : start + 50]]
            parts.append(pipeline.vae.encode(to_tensor(pictures)).latent_dist.mode())
        config = pipeline.vae.config
        self.latents = (torch.cat(parts) - config.shift_factor) * config.scaling_factor


def train(pipeline: FluxPipeline, style: str, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The adapter's averaged weights after `args.num_steps` or `args.minutes` of flow matching."""
    torch.manual_seed(args.seed)
    transformer = pipeline.transformer
    with torch.no_grad():
        examples = Examples(pipeline, style, args.num_scenes, args.seed)
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)), style)
    if args.go_on:
        before = load_file(args.folder / f"{style}.safetensors")
        named = {name.removeprefix("transformer."): value.float() for name, value in before.items()}
        set_peft_model_state_dict(transformer, named, adapter_name=style)
    learnt = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    average, budget, step, total = Average(transformer, 0.98), Budget(args.num_steps, args.minutes), 0, 0.0
    bar = Bar(args.folder / f"{style}.jsonl")
    while (progress := budget.progress(step)) < 1:
        bar.update(progress)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, args.learning_rate)
        loss = _loss(pipeline, examples, random.Random(args.seed * 10**9 + step), args.batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        step, total = step + 1, total + loss.item()
        average.update(transformer, step)
        if step % 25 == 0:
            bar.report(step=step, progress=progress, loss=total / 25)
            total = 0.0
    average.copy_to(transformer)
    return get_peft_model_state_dict(transformer, adapter_name=style)


def _loss(pipeline: FluxPipeline, examples: Examples, rng: random.Random, batch: int) -> torch.Tensor:
    picks = [rng.randrange(len(examples.scenes)) for _ in range(batch)]
    latents = examples.latents[picks]
    texts = ["" if rng.random() < CAPTION_DROPOUT else caption(examples.scenes[i], rng) for i in picks]
    with torch.no_grad():
        words, pooled, text_ids = pipeline.encode_prompt(texts, texts, max_sequence_length=MAX_TOKENS)
    sigmas = torch.sigmoid(NOISE_BIAS + torch.randn(batch))
    sigmas = torch.where(torch.rand(batch) < HIGH_SHARE, 1 - 0.06 * torch.rand(batch), sigmas)
    noise = torch.randn_like(latents)
    noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
    rows, channels, height, width = latents.shape
    velocity = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, rows, channels, height, width),
        timestep=sigmas,
        pooled_projections=pooled,
        encoder_hidden_states=words,
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_image_ids(1, height // 2, width // 2, latents.device, latents.dtype),
        return_dict=False,
    )[0]
    target = pipeline._pack_latents(noise - latents, rows, channels, height, width)
    return (velocity - target).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/training/adapters"))
    parser.add_argument("--styles", nargs="*", choices=sorted(STYLES), default=sorted(STYLES))
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, help="of each style, instead of --num-steps")
    parser.add_argument("--go-on", action="store_true", help="from the adapter in --folder, with a schedule anew")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--num-scenes", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    for style in args.styles:
        pipeline = FluxPipeline.from_pretrained(MODELS["demo"].path, torch_dtype=torch.float32)
        layers = {name: weight.half() for name, weight in train(pipeline, style, args).items()}
        FluxPipeline.save_lora_weights(args.folder, layers, weight_name=f"{style}.safetensors")


if __name__ == "__main__":
    main()
