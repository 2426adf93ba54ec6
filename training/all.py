"""`python -m training.all`: trains everything again and writes the shipped artefacts, in one command. Resumes."""

import argparse
import subprocess
import sys
from pathlib import Path

from interlace.demo import MODELS


def _run(*arguments: str | Path) -> None:
    print(" ".join(map(str, arguments)), flush=True)
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/training"))
    parser.add_argument("--vae-minutes", type=float, default=60)
    parser.add_argument("--denoiser-minutes", type=float, default=240)
    parser.add_argument("--language-minutes", type=float, default=15)
    parser.add_argument("--num-shards", type=int, default=40, help="of 1200 scenes and 600 edits each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", type=Path, default=MODELS["demo"].path.parent, help="where the finished models go")
    parser.add_argument("--num-scores", type=int, default=300, help="pictures of each sort that the figures are from")
    args = parser.parse_args()
    folder, threads = args.folder, ("--threads", str(args.threads))
    vae, latents, denoiser = folder / "vae", folder / "latents", folder / "denoiser"
    _run("training.vae", "--folder", vae, "--minutes", str(args.vae_minutes), "--freeze-at", "0.1", *threads)
    _run("training.latents", "--vae", vae / "model", "--folder", latents, "--shards", f"0:{args.num_shards}", *threads)
    _run("training.denoiser", "--folder", denoiser, "--latents", latents,
         "--minutes", str(args.denoiser_minutes), *threads)  # fmt: skip
    image, expand = (args.export / MODELS[name].path.name for name in ("demo", "demo-expand"))
    _run("training.language", "--folder", folder / "language", "--minutes", str(args.language_minutes),
         "--export", expand, *threads)  # fmt: skip
    _run("training.export", "--vae", vae / "model", "--denoiser", denoiser / "checkpoint.pt", "--folder", image)
    _run("training.curves", "--folder", folder, "--output", folder / "curves.png")
    counts = [x for name in ("prompts", "edits", "expanded") for x in (f"--num-{name}", str(args.num_scores))]
    _run("training.evaluate", "--model", image, "--expand", expand, *counts, "--json",
         "--output", folder / "figures.json")  # fmt: skip


if __name__ == "__main__":
    main()
