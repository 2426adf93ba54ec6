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
    parser.add_argument("--vae-minutes", type=float, default=30)
    parser.add_argument("--denoiser-minutes", type=float, default=240)
    parser.add_argument("--language-minutes", type=float, default=4)
    parser.add_argument("--num-shards", type=int, default=40, help="of 1200 scenes and 300 edits each")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    folder, threads = args.folder, ("--threads", str(args.threads))
    vae, latents, denoiser = folder / "vae", folder / "latents", folder / "denoiser"
    _run("training.vae", "--folder", vae, "--minutes", str(args.vae_minutes), "--freeze-at", "0.7", *threads)
    _run("training.latents", "--vae", vae / "model", "--folder", latents, "--shards", f"0:{args.num_shards}", *threads)
    _run("training.denoiser", "--folder", denoiser, "--latents", latents,
         "--minutes", str(args.denoiser_minutes), *threads)  # fmt: skip
    _run("training.language", "--folder", folder / "language", "--minutes", str(args.language_minutes), *threads)
    _run("training.export", "--vae", vae / "model", "--denoiser", denoiser / "checkpoint.pt")
    _run("training.curves", "--folder", folder)
    _run("training.evaluate", "--model", MODELS["demo"].path, "--json", "--output", folder / "figures.json")


if __name__ == "__main__":
    main()
