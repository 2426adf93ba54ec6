"""Prints what the demo models reach, on prompts, seeds and scenes that the training never saw.

`python -m training.evaluate --model DIR --json`. Counts of prompts are flags: fewer take less time and say less.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FluxKontextPipeline
from PIL import Image

from interlace import Engine
from interlace.demo import MODELS
from interlace.demo.check import Score, score
from interlace.models.loader import LoadedModel, load_model
from interlace.models.optimize import AUTO
from training.captions import caption, random_edit, usual_background
from training.common import size_of
from training.scenes import SLIGHT, WIDE, Scene, random_scene, render
from training.vae import psnr, to_tensor

HELD_OUT = 10**12  # seeds from here on are for evaluation only


class Prompt(NamedTuple):
    """What the model is told, and the same with all that goes without saying, which the picture must keep."""

    text: str
    meaning: str


def prompts(count: int, num_things: int) -> list[Prompt]:
    """Held-out prompts of scenes with so many things."""
    rng = random.Random(HELD_OUT + num_things)
    return [_told(random_scene(rng, num_things), rng) for _ in range(count)]


def short_prompts(count: int) -> list[Prompt]:
    """Held-out prompts of one or two things, before the background that they need not name: "a red circle"."""
    rng, found = random.Random(HELD_OUT + 3), list[Prompt]()
    while len(found) < count:
        scene = random_scene(rng, rng.choice((1, 2)))
        scene = replace(scene, background=usual_background(scene))
        if all(thing.colour not in scene.background.colours for thing in scene.things):
            found.append(_told(scene, rng, short=True))
    return found


def _told(scene: Scene, rng: random.Random, *, short: bool = False) -> Prompt:
    return Prompt(caption(scene, rng, short=short), caption(scene, rng, complete=True))


def draw(pipeline: DiffusionPipeline, requests: list[dict[str, Any]], *, batch: int = 16) -> list[Image.Image]:
    """The pictures of all requests, each with its own seed, through the engine."""
    pictures: list[Image.Image] = []
    with Engine(pipeline) as engine:
        for start in range(0, len(requests), batch):
            for output in engine.map(requests[start : start + batch]):
                if isinstance(output, Exception):
                    raise output
                pictures.append(output.images[0])
    return pictures


def requests_for(texts: list[str], defaults: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    """One request a text, seeded by its number."""
    return [
        {**defaults, **given, "prompt": text, "generator": torch.Generator().manual_seed(HELD_OUT + i)}
        for i, text in enumerate(texts)
    ]


def _sized(size: tuple[int, int]) -> dict[str, Any]:
    return {"width": size[0], "height": size[1]}


def _share(flags: list[bool]) -> float:
    return round(100 * sum(flags) / max(len(flags), 1), 1)


def score_texts(
    pipeline: DiffusionPipeline, defaults: dict[str, Any], asked: list[Prompt], **given: Any
) -> dict[str, float]:
    """Percent of pictures with everything right, and of each part."""
    pictures = draw(pipeline, requests_for([prompt.text for prompt in asked], defaults, **given))
    scores = [score(picture, prompt.meaning) for picture, prompt in zip(pictures, asked, strict=True)]
    parts = sorted({part for s in scores for part in s.parts})
    figures = {part: _share([s.parts[part] for s in scores if part in s.parts]) for part in parts}
    main = [all(s.parts.get(part, True) for part in ("count", "shape", "colour", "background")) for s in scores]
    return {"right": _share([s.right for s in scores]), "shape_colour_background": _share(main), **figures}


def _kept(found: Score, scene: Scene) -> bool:
    """Whether the things lie where the edited scene has them."""
    left = list(found.view.things)
    for thing in scene.things:
        near = [t for t in left if abs(t.x - thing.x) < 0.13 and abs(t.y - thing.y) < 0.13 and t.colour == thing.colour]
        if not near:
            return False
        left.remove(near[0])
    return True


def score_edits(
    pipeline: FluxKontextPipeline, defaults: dict[str, Any], count: int, jitter: float, size: tuple[int, int]
) -> dict[str, float]:
    """Percent of edits with the instruction done and everything else kept."""
    rng = random.Random(HELD_OUT)
    pairs = [random_edit(rng, jitter=jitter) for _ in range(count)]
    width, height = size
    requests = requests_for([text for _, text, _ in pairs], {**defaults, **_sized(size), "max_area": width * height})
    for request, (before, _, _) in zip(requests, pairs, strict=True):
        request["image"] = render(before, width, height)
    done, near = [], []
    for picture, (_, _, after) in zip(draw(pipeline, requests, batch=8), pairs, strict=True):
        found = score(picture, caption(after, rng, complete=True))
        done.append(found.right and _kept(found, after))
        near.append(
            all(found.parts[part] for part in ("count", "shape", "colour", "background")) and _kept(found, after)
        )
    return {"right": _share(done), "right_but_for_size": _share(near)}


def score_decoded(vae: AutoencoderKL, count: int, num_things: int, size: tuple[int, int]) -> float:
    """Percent of drawn scenes that are still right once they were encoded and decoded: what the autoencoder keeps."""
    rng, right = random.Random(HELD_OUT + num_things), list[bool]()
    for _ in range(count):
        scene = random_scene(rng, num_things)
        meaning, picture = caption(scene, rng, complete=True), render(scene, *size)
        decoded = vae.decode(vae.encode(to_tensor([np.asarray(picture)])).latent_dist.mode()).sample[0]
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        right.append(score(Image.fromarray(pixels.numpy()), meaning).right)
    return _share(right)


def expansion(model: Path, count: int) -> tuple[list[str], float]:
    """Prompts that the language model makes of short ideas, and the percentage that keep all that their idea names."""
    from training.language import expand, fits, ideas

    short = ideas(count, HELD_OUT)
    texts = expand(model, short, seed=HELD_OUT)
    return texts, _share([fits(idea, text) for idea, text in zip(short, texts, strict=True)])


def solo_seconds(pipeline: DiffusionPipeline, defaults: dict[str, Any]) -> float:
    """The time of one picture alone, the better of two."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        pipeline(**requests_for(["a red circle on a blue background"], defaults)[0])
        times.append(time.perf_counter() - start)
    return round(min(times), 2)


def solo_difference(pipeline: DiffusionPipeline, defaults: dict[str, Any], texts: list[str]) -> int:
    """Largest difference of a pixel (of 255) between pictures drawn together and alone."""
    together = draw(pipeline, requests_for(texts, defaults))
    pipeline.set_progress_bar_config(disable=True)
    alone = [pipeline(**request).images[0] for request in requests_for(texts, defaults)]
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in zip(together, alone, strict=True))


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of the table, as far as the flags ask for them."""
    loaded = load_model(args.model, pipeline_class="FluxPipeline", optimizations=AUTO)  # as users load it
    asked = {"num_inference_steps": args.steps, "true_cfg_scale": args.guidance}
    own = {name: value for name, value in asked.items() if value is not None}
    pipeline, defaults = loaded.pipeline, {**loaded.defaults, **own}
    pipeline.set_progress_bar_config(disable=True)
    found: dict[str, Any] = {"steps": defaults["num_inference_steps"], "true_cfg_scale": defaults["true_cfg_scale"]}
    with torch.no_grad():
        found["vae_psnr_db"] = round(psnr(pipeline.vae, args.num_scenes, HELD_OUT), 2)
        found["seconds_alone"] = solo_seconds(pipeline, defaults)
        if args.num_prompts:
            texts = [prompt.text for prompt in prompts(4, 2)]
            found["largest_difference_together_alone"] = solo_difference(pipeline, defaults, texts)
        if args.num_expanded:
            texts, found["ideas_kept"] = expansion(args.expand, args.num_expanded)
            found["expanded"] = score_texts(pipeline, defaults, [Prompt(text, text) for text in texts])
        edit = load_model(args.model, pipeline_class="FluxKontextPipeline", optimizations=AUTO)
        edit = replace(edit, defaults={**edit.defaults, **own})
        edit.pipeline.set_progress_bar_config(disable=True)
        usual = (defaults["width"], defaults["height"])
        found |= {"x".join(map(str, size)): _at(size, loaded, edit, defaults, args) for size in args.sizes or [usual]}
    return found


def _at(
    size: tuple[int, int], loaded: LoadedModel, edit: LoadedModel, defaults: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """The figures of pictures of one size."""
    found: dict[str, Any] = {}
    if args.num_prompts:
        asked = {"one_thing": prompts(args.num_prompts, 1), "two_things": prompts(args.num_prompts, 2),
                 "short": short_prompts(args.num_prompts)}  # fmt: skip
        for name, texts in asked.items():
            found[name] = score_texts(loaded.pipeline, defaults, texts, **_sized(size))
        things = {"one_thing": 1, "two_things": 2}
        vae = loaded.pipeline.vae
        found["decoded"] = {name: score_decoded(vae, args.num_prompts, count, size) for name, count in things.items()}
    if args.num_edits:
        for name, jitter in (("edits", SLIGHT), ("edits_of_things_elsewhere", WIDE)):
            found[name] = score_edits(edit.pipeline, {**edit.defaults}, args.num_edits, jitter, size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=str(MODELS["demo"].path))
    parser.add_argument("--expand", type=Path, default=MODELS["demo-expand"].path, help="the language model")
    parser.add_argument("--num-prompts", type=int, default=300, help="for one thing, for two, and short ones, each")
    parser.add_argument("--num-edits", type=int, default=200)
    parser.add_argument("--num-expanded", type=int, default=100)
    parser.add_argument("--num-scenes", type=int, default=32, help="for the autoencoder")
    parser.add_argument("--sizes", type=size_of, nargs="+", metavar="WIDTHxHEIGHT", help="instead of the model's own")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float, help="true_cfg_scale instead of the model's own")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--output", type=Path, help="write the figures here too")
    args = parser.parse_args()
    found = evaluate(args)
    if args.output:
        args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
