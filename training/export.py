"""Writes the shipped model from the trainings' checkpoints: diffusers' format, float16 on disk, its own defaults."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from interlace.demo import MODELS
from training.common import load_checkpoint
from training.denoiser import Model
from training.vae import build
from training.words import MAX_TOKENS, tokenizer

_COMMON: dict[str, Any] = {
    "num_inference_steps": 16,
    "guidance_scale": 1.0,
    "true_cfg_scale": 2.0,
    "negative_prompt": "",
    "max_sequence_length": MAX_TOKENS,
}
SETTINGS: dict[str, Any] = {
    "description": "Interlace's own small model: coloured shapes from text, 64 to 192 pixels a side",
    "defaults": {
        "FluxPipeline": {"height": 128, "width": 128, **_COMMON},
        "FluxKontextPipeline": {"height": 128, "width": 128, **_COMMON, "max_area": 128 * 128, "_auto_resize": False},
    },
    "limits": {"min_size": 64, "max_size": 192, "multiple_of": 16},
}
_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Interlace demo

A small model in the FLUX architecture ({parameters:.1f} million parameters in all) that draws coloured shapes from
text, and edits such pictures by instruction (`FluxKontextPipeline` over the same weights). It was trained from nothing
on scenes that Interlace's `training/` draws; no picture or text of anybody else was used.

- Shapes: circle, square, triangle, star, ring, cross, heart, moon.
- Colours: red, orange, yellow, green, cyan, blue, purple, pink, white, black.
- Sizes small, medium, large; one to three things; left of, right of, above, below, inside, behind.
- What a prompt leaves out is as usual: medium, in the center, left to right, on white ("a red circle").
- Backgrounds: plain, gradient, striped, checked.
- Pictures from 64 to 192 pixels a side, in steps of 16; best with sides of 112 and more.

What it can't do: anything else. Words that it does not know count as nothing; more than {words} words are cut off.
Its training was short: outlines are a little rough; with sides of 112 pixels and more, about one picture in thirty of
one thing, one in eight of two and one edit in five has a wrong shape, and more of them where a side is shorter.
`training/README.md` has the measured figures and how to train it again.
"""


def load_autoencoder(path: Path) -> AutoencoderKL:
    """From a finished model's folder, or from a training's checkpoint.pt (averaged weights)."""
    if path.is_dir():
        return AutoencoderKL.from_pretrained(path).eval()
    state, vae = load_checkpoint(path), build()
    assert state is not None, f"{path} does not exist"
    vae.load_state_dict(state["model"])
    return _averaged(vae, state).eval()


def _averaged(module: Any, state: dict[str, Any]) -> Any:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(state["average"][name])
    return module


def assemble(vae: AutoencoderKL, checkpoint: Path, *, averaged: bool = True) -> FluxPipeline:
    """The pipeline of a denoiser's checkpoint."""
    state = load_checkpoint(checkpoint)
    assert state is not None, f"{checkpoint} does not exist"
    words = tokenizer()
    model = Model(len(words))
    model.load_state_dict(state["model"])
    if averaged:
        _averaged(model, state)
    vae.register_to_config(shift_factor=state["mean"], scaling_factor=1 / state["std"])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False)
    return FluxPipeline(
        scheduler, vae, model.text_encoder, words, model.text_encoder_2, tokenizer(), model.transformer.eval()
    )


@torch.no_grad()
def mix(pipeline: FluxPipeline, other: Path, share: float) -> None:
    """Makes the transformer's weights the mean of theirs and those of a finished model, which has `share` of it.

    For one that was trained on from the other: what it learnt stays mostly, and so does what it had begun to forget
    (Wortsman and others 2022, "Robust fine-tuning of zero-shot models").
    """
    before = FluxPipeline.from_pretrained(other, torch_dtype=torch.float32).transformer.state_dict()
    for name, weight in pipeline.transformer.state_dict().items():
        weight.lerp_(before[name], share)


def export(pipeline: FluxPipeline, folder: Path) -> None:
    """Write everything that the loader needs to `folder`, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    (folder / "interlace.json").write_text(json.dumps(SETTINGS, indent=2) + "\n", encoding="utf-8")
    for path in folder.glob("*/config.json"):
        settings = json.loads(path.read_text())
        settings.pop("_name_or_path", None)  # where the checkpoint lay on the machine that trained it
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    modules = (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer)
    millions = sum(p.numel() for module in modules for p in module.parameters()) / 1e6
    (folder / "README.md").write_text(_CARD.format(parameters=millions, words=MAX_TOKENS - 1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("out/training/vae/model"), help="folder, or a checkpoint.pt")
    parser.add_argument("--denoiser", type=Path, default=Path("out/training/denoiser/checkpoint.pt"))
    parser.add_argument("--folder", type=Path, default=MODELS["demo"].path)
    parser.add_argument("--live", action="store_true", help="the last weights instead of the averaged ones")
    parser.add_argument("--mix-with", type=Path, help="a finished model that this one was trained on from")
    parser.add_argument("--mix-share", type=float, default=0.3, help="its share of the transformer's weights")
    args = parser.parse_args()
    pipeline = assemble(load_autoencoder(args.vae), args.denoiser, averaged=not args.live)
    if args.mix_with:
        mix(pipeline, args.mix_with, args.mix_share)
    export(pipeline, args.folder)
    size = sum(f.stat().st_size for f in args.folder.rglob("*") if f.is_file())
    print(f"{args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
