"""Trains the demo model's autoencoder on crops of scenes: 8x smaller, 12 latent channels."""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.common import Average
from training.run import Run
from training.scenes import HARDEST, hardness, random_scene, render

CROP = 64
SIDES = (64, 80, 96, 112, 112, 112, 128, 128, 128, 144, 160)  # of the pictures that crops are of
LATENT_CHANNELS = 12
PAIRS = 8  # channels that carry colours and a constant through the untrained autoencoder
REFERENCE = 4.0
LATENT_NOISE = 0.03  # what the decoder must bear: a denoiser's latents are not quite the encoder's


def build() -> AutoencoderKL:
    """The autoencoder, untrained. One norm group (smaller ones would forget absolute colours)."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    _start_as_averages(vae)
    return vae


@torch.no_grad()
def _start_as_averages(vae: AutoencoderKL) -> None:
    """Weights with which the first latent channels are the mean colours of 8x8 pixels, and decoding repeats them.

    Colours travel as pairs (v, -v) beside a large constant pair, so that norms keep them (silu(v) - silu(-v) = v).
    Everything else starts small: residuals add nothing at first. Training takes it from there in minutes, not hours.
    """
    for name, module in vae.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        if name.endswith(".conv2"):
            module.weight.zero_()
            module.bias.zero_()
        elif "samplers" in name or name.endswith("conv_shortcut"):
            _carry(module, average="downsamplers" in name)
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight[:PAIRS] = 0
        part.conv_in.bias[:PAIRS] = 0
        part.conv_in.bias[6:PAIRS] = torch.tensor([REFERENCE, -REFERENCE])
        middle = part.conv_in.weight.shape[-1] // 2
        part.conv_out.weight[:3] = 0
        part.conv_out.bias[:3] = 0
        part.conv_out.weight[3:LATENT_CHANNELS] *= 0.5
        groups = part.conv_norm_out.num_channels / PAIRS
        std = (2 * REFERENCE**2 / PAIRS + 0.25) ** 0.5 / groups**0.5  # of the normed values, about
        for colour in range(3):
            for sign in (0, 1):
                part.conv_in.weight[2 * colour + sign, colour, middle, middle] = 1 - 2 * sign
                part.conv_out.weight[colour, 2 * colour + sign, 1, 1] = std * (1 - 2 * sign)


def _carry(conv: torch.nn.Conv2d, *, average: bool) -> None:
    """The first channels pass unchanged (or averaged over 2x2); the others start small and mixed."""
    conv.weight[PAIRS:] *= 0.5
    conv.weight[:PAIRS] = 0
    conv.bias[:PAIRS] = 0
    size = conv.weight.shape[-1]
    for channel in range(PAIRS):
        if average:
            conv.weight[channel, channel, :2, :2] = 0.25
        else:
            conv.weight[channel, channel, size // 2, size // 2] = 1


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """[n, 3, height, width] in [-1, 1] from pictures of one size."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(rng: random.Random, count: int) -> torch.Tensor:
    """`count` crops of scenes of many sizes, around the edges of things: flat colours have little to teach."""
    found: list[np.ndarray] = []
    while len(found) < count:
        scene = random_scene(rng)
        counts = [hardness(thing) for thing in scene.things]
        if rng.random() > max(counts) / HARDEST:
            continue
        picture = np.asarray(render(scene, *rng.choices(SIDES, k=2)))
        height, width = picture.shape[:2]
        for thing in rng.choices(scene.things, counts, k=2):
            reach = thing.half * min(height, width)
            middle = (thing.y * height + rng.uniform(-reach, reach), thing.x * width + rng.uniform(-reach, reach))
            top, left = (
                round(min(max(m - CROP / 2, 0), n - CROP) / 8) * 8 for m, n in zip(middle, (height, width), strict=True)
            )
            found.append(picture[top : top + CROP, left : left + CROP])
    return to_tensor(found[:count]).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute and squared error, and the error of the edges."""
    edges = sum(F.l1_loss(output.diff(dim=d), target.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(output, target) + 2 * F.mse_loss(output, target) + 0.5 * edges


@torch.no_grad()
def psnr(vae: AutoencoderKL, count: int = 32, seed: int = 10**9) -> float:
    """Mean PSNR in dB of 128x128 held-out scenes."""
    rng = random.Random(seed)
    pictures = to_tensor([np.asarray(render(random_scene(rng))) for _ in range(count)])
    errors = (
        (vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1) - pictures).square().mean((1, 2, 3))
    )
    return float((10 * torch.log10(4 / errors)).mean())


@torch.no_grad()
def balance(vae: AutoencoderKL, seed: int = 10**9) -> None:
    """Bring the latent channels' scales closer together (by the root of their ratios); pictures stay the same."""
    std = vae.encode(crops(random.Random(seed), 128)).latent_dist.mode().std((0, 2, 3))
    scales = std.mean().sqrt() / (std.sqrt() * std.mean())
    vae.encoder.conv_out.weight[:LATENT_CHANNELS] *= scales[:, None, None, None]
    vae.encoder.conv_out.bias[:LATENT_CHANNELS] *= scales
    vae.decoder.conv_in.weight /= scales[None, :, None, None]


def train(
    folder: Path,
    *,
    minutes: float | None,
    num_steps: int,
    batch: int,
    peak: float,
    seed: int,
    freeze_at: float = 1.0,
    init_from: Path | None = None,
    noise: float = LATENT_NOISE,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train or resume in `folder`; writes checkpoint.pt, log.jsonl and, at the end, the model in diffusers' format.

    From `freeze_at` on the encoder stays as it is (written to `encoder`): the denoiser can be trained meanwhile. Of a
    finished autoencoder, `init_from`, only the decoder learns.
    """
    torch.manual_seed(seed)
    vae = (AutoencoderKL.from_pretrained(init_from) if init_from else build()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average(vae, 0.998)
    run = Run(folder, vae, optimizer, num_steps=num_steps, minutes=minutes, average=average)
    for progress in run.steps(peak):
        if (init_from or progress >= freeze_at) and not (folder / "encoder").exists():
            if not init_from:
                average.copy_to(vae)
                balance(vae)
            run.average = average = Average(vae, 0.998)
            vae.save_pretrained(folder / "encoder")
        frozen = (folder / "encoder").exists()
        pictures = crops(random.Random(seed * 10**9 + run.step), batch)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            with torch.set_grad_enabled(not frozen):
                means = vae.encode(pictures).latent_dist.mode().float()
            decoded = vae.decode(means + noise * torch.randn_like(means)).sample.float()
        loss = reconstruction_loss(decoded, pictures) + 1e-3 * means.square().mean()
        run.learn(loss, lambda: {"psnr": psnr(vae, 8)})
    average.copy_to(vae)
    vae.eval().to(memory_format=torch.contiguous_format).save_pretrained(folder / "model")
    run.bar.report(step=run.step, psnr=psnr(vae))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/training/vae"))
    parser.add_argument("--minutes", type=float, help="train for this long instead of --num-steps")
    parser.add_argument("--num-steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--freeze-at", type=float, default=0.35, help="share of the training that the encoder takes part in"
    )
    parser.add_argument("--init-from", type=Path, help="a finished autoencoder (a folder), whose decoder learns on")
    parser.add_argument("--noise", type=float, default=LATENT_NOISE, help="on the latents that the decoder is given")
    parser.add_argument("--bfloat16", action="store_true", help="autocast: three times as fast on a CPU with AMX")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.folder, minutes=args.minutes, num_steps=args.num_steps, batch=args.batch, peak=args.learning_rate,
          seed=args.seed, freeze_at=args.freeze_at, init_from=args.init_from, noise=args.noise,
          dtype=torch.bfloat16 if args.bfloat16 else torch.float32)  # fmt: skip


if __name__ == "__main__":
    main()
