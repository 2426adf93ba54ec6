"""Draws the trainings' loss curves from their logs."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_PARTS = ("vae", "denoiser", "language")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/training"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "curves.png")
    args = parser.parse_args()
    figure, axes = pyplot.subplots(1, len(_PARTS), figsize=(12, 3.2), layout="constrained")
    for axis, part in zip(axes, _PARTS, strict=True):
        path = args.folder / part / "log.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        axis.plot(*zip(*losses, strict=True) if losses else ([], []))
        axis.set(title=part, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3)
        if any("psnr" in line for line in lines):
            right = axis.twinx()
            points = [(line["step"], line["psnr"]) for line in lines if "psnr" in line]
            right.plot(*zip(*points, strict=True), color="tab:orange")
            right.set_ylabel("PSNR, dB")
    figure.savefig(args.output, dpi=80)
    print(args.output)


if __name__ == "__main__":
    main()
