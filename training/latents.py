"""Draws scenes and edit pairs once and keeps their latents in shards, so that the denoiser never waits for pictures."""

import argparse
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.captions import random_edit
from training.common import save_checkpoint, size_of
from training.scenes import SLIGHT, WIDE, random_scene, render
from training.vae import to_tensor


def shard_size(index: int) -> tuple[int, int]:
    """Height and width of all pictures of a shard: 128x128 in six of eight, 64x64 in one, any size in one."""
    if index % 8 != 6:
        return (64, 64) if index % 8 == 1 else (128, 128)
    rng = random.Random(index)
    side = rng.choice((64, 80, 96, 112, 128, 144))
    return side, min(max(side + rng.choice((-32, -16, 0, 0, 16, 32, 48)), 64), 192)


@torch.no_grad()
def _encode(vae: AutoencoderKL, scenes: list[Any], height: int, width: int) -> torch.Tensor:
    parts = []
    for start in range(0, len(scenes), 50):
        pictures = to_tensor([np.asarray(render(scene, width, height)) for scene in scenes[start : start + 50]])
        parts.append(vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mode().half())
    return torch.cat(parts)


def make_shard(
    vae: AutoencoderKL, index: int, seed: int, *, num_scenes: int, num_pairs: int, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Scenes with their latents, and pairs (before, instruction, after) with theirs.

    `size` is the width and height of all its pictures; without it, `shard_size` decides.
    """
    rng, (height, width) = random.Random(seed * 10**6 + index), size[::-1] if size else shard_size(index)
    scenes = [random_scene(rng, jitter=SLIGHT) for _ in range(num_scenes)]
    pairs = [random_edit(rng, jitter=rng.choice((SLIGHT, WIDE))) for _ in range(num_pairs)]
    return {
        "scenes": pickle.dumps((scenes, [before for before, _, _ in pairs], [after for _, _, after in pairs])),
        "instructions": [text for _, text, _ in pairs],
        "latents": _encode(vae, scenes, height, width),
        "before": _encode(vae, [before for before, _, _ in pairs], height, width),
        "after": _encode(vae, [after for _, _, after in pairs], height, width),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("out/training/vae/model"))
    parser.add_argument("--folder", type=Path, default=Path("out/training/latents"))
    parser.add_argument("--shards", default="0:40", help="FIRST:END")
    parser.add_argument("--num-scenes", type=int, default=1200, help="a shard")
    parser.add_argument("--num-pairs", type=int, default=600, help="edits a shard")
    parser.add_argument("--sizes", type=size_of, nargs="+", metavar="WIDTHxHEIGHT",
                        help="of the shards in turn; otherwise six of eight are of 128x128")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.vae).eval().to(memory_format=torch.channels_last)
    first, end = (int(part) for part in args.shards.split(":"))
    for index in range(first, end):
        path = args.folder / f"{index:03d}.pt"
        if not path.exists():
            size = args.sizes[index % len(args.sizes)] if args.sizes else None
            counts = {"num_scenes": args.num_scenes, "num_pairs": args.num_pairs}
            save_checkpoint(path, **make_shard(vae, index, args.seed, size=size, **counts))
            print(f"shard {index + 1} of {end}", flush=True)


if __name__ == "__main__":
    main()
