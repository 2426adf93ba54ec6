"""Trains the demo model's transformer and its text encoders together: flow matching on latents of scenes and edits."""

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import PreTrainedTokenizerFast

from training.batches import OTHER_SHARE, Batch, Shards
from training.captions import in_order
from training.common import Average, falling
from training.probes import Known, Probes, cells_of, changed, facts_of
from training.run import Run
from training.start import PROBE_RATE, begin_from, choose_what_learns
from training.vae import LATENT_CHANNELS
from training.words import MAX_TOKENS, clip_encoder, t5_encoder, tokenizer

WIDTH = 192
CAPTION_DROPOUT = 0.1
STRANGE_SHARE = 0.1  # of texts that get words which the model does not know
NOISE_BIAS = 1.1  # flat pictures show through much noise: what goes where is decided early
THINGS_COUNT = 2.0  # times as much as the background, in the error of the latents
NEARLY_NOISE = 0.06  # noise levels from 1 minus this on are "high"
HIGH_SHARE = 0.3  # of high levels, once the usual ones are in


class Model(nn.Module):
    """The trained parts, as they stand in the pipeline."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = clip_encoder(vocab_size)
        self.text_encoder_2 = t5_encoder(vocab_size)
        self.transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=4 * LATENT_CHANNELS, num_layers=2, num_single_layers=4, attention_head_dim=64,
            num_attention_heads=WIDTH // 64, joint_attention_dim=128, pooled_projection_dim=64, guidance_embeds=False,
            axes_dims_rope=(8, 28, 28),
        )  # fmt: skip
        self.probes = Probes(vocab_size, WIDTH, 4 * LATENT_CHANNELS)
        self.transformer.transformer_blocks[-1].register_forward_hook(self.probes.see_early)
        self.transformer.single_transformer_blocks[1].register_forward_hook(self.probes.see_late)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Blocks whose gates are shut at first train several times faster (adaLN-Zero, Peebles and Xie 2022)."""
        for name, module in self.transformer.named_modules():
            if isinstance(module, nn.Linear) and (name.endswith(".linear") or name == "proj_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: torch.Tensor, noisy: torch.Tensor, sigmas: torch.Tensor, condition: torch.Tensor | None,
        known: Known,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Velocity for `noisy` latents as [rows, tokens, channels], and the loss of the probes.

        `condition` are the clean latents of an edit; `known` says what the probes must find.
        """
        height, width, packed = _pack(noisy)
        image_ids = FluxPipeline._prepare_latent_image_ids(1, height, width, noisy.device, noisy.dtype)
        hidden, before = packed, None
        if condition is not None:
            before = _pack(condition)[2]
            hidden = torch.cat([packed, before], dim=1)
            marked = image_ids.clone()
            marked[:, 0] = 1
            image_ids = torch.cat([image_ids, marked])
        pooled, words = self.text_encoder(tokens).pooler_output, self.text_encoder_2(tokens)[0]
        output = self.transformer(
            hidden_states=hidden,
            timestep=sigmas,
            pooled_projections=pooled,
            encoder_hidden_states=words,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=noisy.device),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return output[:, : packed.shape[1]], self.probes(tokens, words, pooled, known, height, width, before)


def _pack(latents: torch.Tensor) -> tuple[int, int, torch.Tensor]:
    rows, channels, height, width = latents.shape
    return height // 2, width // 2, FluxPipeline._pack_latents(latents, rows, channels, height, width)


def loss_of(
    model: Callable[..., torch.Tensor],
    words: PreTrainedTokenizerFast,
    batch: Batch,
    rng: random.Random,
    *,
    progress: float,
    device: str,
    high_share: float = HIGH_SHARE,
) -> torch.Tensor:
    """Flow matching: at x = (1 - s) data + s noise the target is noise - data.

    At first every s is close to 1, where a picture can only come from its text; later most are logit-normal. Begun with
    logit-normal ones, the model reads what is where off the noisy latents, and hardly learns shapes and places.
    """
    latents, before = batch.latents.to(device), None if batch.before is None else batch.before.to(device)
    texts = ["" if rng.random() < CAPTION_DROPOUT else _with_strange_words(text, rng) for text in batch.texts]
    tokens = words(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
    noise = torch.randn_like(latents)
    sigmas = torch.sigmoid(NOISE_BIAS + torch.randn(len(latents), device=device))
    high = torch.rand_like(sigmas) < high_share + (1 - high_share) * falling(progress, 0.25, 0.6)
    sigmas = torch.where(high, 1 - NEARLY_NOISE * torch.rand_like(sigmas), sigmas)
    noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
    known = _known(batch, tokens, words, latents.shape[2] // 2, latents.shape[3] // 2)
    velocity, probed = model(tokens.to(device), noisy, sigmas, before, known.to(device))
    errors = (velocity - _pack(noise - latents)[2]).square().mean(2)
    counts = torch.where((known.shapes[:, : errors.shape[1]] > 0).any(2), THINGS_COUNT, 1.0)
    return (errors * counts).sum() / counts.sum() + probed


def _with_strange_words(text: str, rng: random.Random) -> str:
    """Now and then a word or two that the model doesn't know, which must not matter."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 2) if len(words) < MAX_TOKENS - 2 and rng.random() < STRANGE_SHARE else 0):
        words.insert(rng.randrange(len(words) + 1), "<unk>")
    return " ".join(words)


def _known(batch: Batch, tokens: torch.Tensor, words: PreTrainedTokenizerFast, height: int, width: int) -> Known:
    shapes, colours = cells_of(batch.scenes, height, width)
    backgrounds = [scene.background for scene in batch.scenes]
    if batch.scenes_before is None:
        return Known(shapes, colours, facts_of(tokens, [in_order(scene) for scene in batch.scenes], backgrounds, words))
    named = [changed(*scenes) for scenes in zip(batch.scenes_before, batch.scenes, strict=True)]
    meant = [
        replace(before, things=tuple(thing for thing in before.things if thing in things))
        for before, things in zip(batch.scenes_before, named, strict=True)
    ]
    before, meant = (cells_of(scenes, height, width)[0] for scenes in (batch.scenes_before, meant))
    return Known(shapes, colours, facts_of(tokens, named, backgrounds, words), before, meant.clamp(max=1))


def train(
    folder: Path,
    shards: Shards,
    *,
    minutes: float | None,
    num_steps: int,
    batch: int,
    peak: float,
    seed: int,
    resume_at: float | None = None,
    init_from: Path | None = None,
    high_share: float = HIGH_SHARE,
    device: str = "cpu",
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train or resume in `folder`; checkpoint.pt holds all that is needed to go on and to export.

    `resume_at` (with minutes) says how far the schedule is taken to be, in place of what the checkpoint says: to train
    on after its end. `init_from` is a finished model to train on, with the mixture of the schedule's end.
    """
    torch.manual_seed(seed)
    words = tokenizer()
    model = Model(len(words)).to(device)
    if compiled:
        _compile_blocks(model.transformer)
    if dtype == torch.bfloat16:
        model.transformer.set_attention_backend("_native_math")  # on a CPU the fused one's backward is slower
    shards.refresh()
    if init_from:
        shards.mean, shards.std = begin_from(model, init_from)
    optimizer = _optimizer(model, peak, PROBE_RATE if init_from else 1.0)
    run = Run(folder, model, optimizer, num_steps=num_steps, minutes=minutes, average=Average(model, 0.999),
              resume_at=resume_at)  # fmt: skip
    shards.mean, shards.std = run.kept.get("mean", shards.mean), run.kept.get("std", shards.std)
    run.kept = {"mean": shards.mean, "std": shards.std}
    samples = 0
    for progress in run.steps(peak):
        if init_from:
            choose_what_learns(model, run.step)
        phase = 1.0 if init_from else progress
        rng = random.Random(seed * 10**9 + run.step)
        chosen = shards.batch(rng, batch, phase)
        stance = "default" if shards.is_common(chosen.latents) else "force_eager"  # compiling must be worth while
        with torch.autocast(device, dtype, enabled=dtype != torch.float32), torch.compiler.set_stance(stance):
            loss = loss_of(model, words, chosen, rng, progress=phase, device=device, high_share=high_share)
        samples += len(chosen.texts)
        run.learn(loss, lambda samples=samples: {"samples": samples})
        if run.step % 100 == 0:
            shards.refresh()


def _compile_blocks(transformer: FluxTransformer2DModel) -> None:
    """Blocks of a kind share what is compiled; each size of several shards is compiled for, once."""
    torch._dynamo.config.recompile_limit = 64
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        block.compile(dynamic=False)


def _optimizer(model: Model, peak: float, probes: float) -> torch.optim.Optimizer:
    """`probes` is how many times the others' learning rate is theirs."""
    read = list(model.probes.parameters())
    others = [p for name, part in model.named_children() if name != "probes" for p in part.parameters()]
    groups = [{"params": others, "times": 1.0}, {"params": read, "times": probes}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/training/denoiser"))
    parser.add_argument("--latents", type=Path, default=Path("out/training/latents"))
    parser.add_argument("--minutes", type=float, help="train (on) for this long instead of --num-steps")
    parser.add_argument("--end-at", help="train (on) until this time of day, HH:MM")
    parser.add_argument(
        "--resume-at", type=float, help="take a checkpoint's schedule to be so far (0 to 1), to train on"
    )
    parser.add_argument(
        "--init-from", type=Path, help="train on a finished model (a folder): all but its text encoders"
    )
    parser.add_argument("--num-steps", type=int, default=6000)
    parser.add_argument("--easy-share", type=float, default=0.1, help="of one thing on a plain background, at the end")
    parser.add_argument("--edit-share", type=float, default=0.3, help="of batches with edits, after the first quarter")
    parser.add_argument("--other-share", type=float, default=OTHER_SHARE, help="of batches of other sizes than 128x128")
    parser.add_argument("--high-share", type=float, default=HIGH_SHARE, help="of samples that are nearly all noise")
    parser.add_argument("--batch", type=int, default=32, help="pictures of 128x128 in a batch")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="the blocks: half a minute a size, then 1.4x on a CPU")
    parser.add_argument("--bfloat16", action="store_true", help="autocast: faster where the device knows it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.end_at:
        hour, minute = map(int, args.end_at.split(":"))
        end = datetime.now().replace(hour=hour, minute=minute, second=0)
        args.minutes = (end - datetime.now()).total_seconds() / 60
    shards = Shards(args.latents, easy_share=args.easy_share, edit_share=args.edit_share, other_share=args.other_share)
    train(args.folder, shards, minutes=args.minutes, num_steps=args.num_steps, batch=args.batch,
          peak=args.learning_rate, seed=args.seed, resume_at=args.resume_at, init_from=args.init_from,
          high_share=args.high_share, device=args.device, compiled=args.compile,
          dtype=torch.bfloat16 if args.bfloat16 else torch.float32)  # fmt: skip


if __name__ == "__main__":
    main()
