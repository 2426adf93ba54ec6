"""Every type of editing model, tiny and with random weights: the same edits by Interlace and by diffusers alone.

python -m tests.edit_models   prints the table of docs/editing.md
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import numpy as np
import torch
from diffusers.utils import load_image

from interlace import Omni
from interlace.bulk.generator import OmniGenerator
from interlace.bulk.input.media import ImageRules
from interlace.bulk.input.rows import Job, Row
from interlace.cli.flags.bulk import SelectFlags
from interlace.cli.rows import open_rows
from interlace.models.editing import EDIT_MODELS, EditModel
from interlace.models.glm import mend_glm_image
from interlace.models.loader import LoadedModel
from interlace.request import Output, SamplingParams
from tests.zoo import FAMILIES
from tests.zoo.family import picture

_FLUX2 = {"max_sequence_length": 160, "text_encoder_out_layers": (1, 2), "height": 32, "width": 32}
# Type -> its family in the zoo, and arguments that make it small.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen": ("qwen-image-edit-plus", {"max_sequence_length": 128, "height": 32, "width": 32}),
    "qwen_singleimg": ("qwen-image-edit", {"max_sequence_length": 128, "height": 32, "width": 32}),
    "flux2": ("flux2", _FLUX2),
    "flux2_klein": ("flux2-klein", _FLUX2),
    "flux1_kontext": ("flux-kontext", {"max_sequence_length": 48, "max_area": 32 * 32, "_auto_resize": False}),
    "longcat": ("longcat-image-edit", {}),
    "glm_image": ("glm-image", {"max_sequence_length": 64}),
}
SEEDS = (101, 102, 103, 104, 105, 106)
INSTRUCTIONS = (
    "make it blue",
    "add a small red boat on the left, under the bridge, and let it rain in the background",
    "remove the fox",
    "oil painting",
    "turn the day into night, with a full moon and street lamps along the river",
    "snow",
)


@dataclass(frozen=True)
class Comparison:
    """Interlace beside diffusers alone. `difference` is the largest, in steps of 255."""

    difference: int
    mean_rows: float  # of the transformer's forwards
    forwards: int  # of the transformer, for all rows
    forwards_alone: int
    num_rows: int


def write_rows(folder: Path, edit: EditModel, alike: bool = False) -> None:
    """Edits that differ in all a model allows: pictures, their sizes and number, instruction, steps, guidance, size.

    Those that are `alike` have one picture of one size each, and differ in the rest.
    """
    sizes = [(64, 64), (96, 64), (64, 64), (64, 96), (64, 64), (96, 64)]
    scale = 1 if edit.name in ("flux2", "flux2_klein", "glm_image") else 2
    counts = (1, 2, 1, 3, 2, 1) if edit.many and not alike else (1,) * 6
    if alike:
        sizes = sizes[:1] * 6
    rows = []
    for number, (instruction, size, count) in enumerate(zip(INSTRUCTIONS, sizes, counts, strict=True)):
        names = [f"{number}_{i}.png" for i in range(count)]
        for i, name in enumerate(names):
            picture(10 * number + i, (size[0] // scale, size[1] // scale)).save(folder / name)
        row: dict[str, Any] = {"input_images": names, "instruction": instruction, "seed": SEEDS[number]}
        row["num_inference_steps"] = (3, 2, 4, 3, 3, 2)[number]
        if "true_cfg_scale" in edit.defaults:
            row |= {"true_cfg_scale": (4.0, 2.0, 1.0, 3.0, 2.5, 4.0)[number]}
        elif edit.name != "flux2_klein":
            row |= {"guidance_scale": (3.5, 2.0, 1.0, 3.0, 2.5, 4.0)[number]}
        if "negative_prompt" in edit.defaults and number % 3 == 0:
            row["negative_prompt"] = "blurry, ugly"
        if edit.name in ("qwen", "qwen_singleimg", "flux2", "flux2_klein") and number % 2 and not alike:
            row |= {"height": 48, "width": 32}
        rows.append(row)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def compare(name: str, folder: Path, *, alike: bool = False, tolerance: float = 0.1, repeats: int = 1) -> Comparison:
    """The rows of `write_rows` through bulk rows, loading and the engine, and one by one through stock diffusers.

    `tolerance` is the engine's resolution_tolerance. The last of the `repeats` counts.
    """
    edit = EDIT_MODELS[name]
    family, small = TINY[name]
    pipeline = FAMILIES[family].build()
    mend_glm_image(pipeline)
    write_rows(folder, edit, alike)
    model = LoadedModel(name=name, pipeline=pipeline, defaults={**edit.defaults, **small})
    rules = ImageRules(max_images=edit.max_images, model=edit.pipeline)
    rows = list(open_rows(folder / "rows.jsonl", SamplingParams(), SelectFlags(), task="edit", images=rules))
    assert all(isinstance(row, Row) for row in rows), rows
    jobs = [job for row in rows for job in row.jobs(0)]  # type: ignore[union-attr]
    expected, alone = [], _Count(pipeline.transformer)
    generator = OmniGenerator(Omni(model, max_batch_rows=16, resolution_tolerance=tolerance), edit)
    try:
        for job in jobs:
            paths = [str(folder / source.name) for source in job.images]
            sampling = generator._sized(job.sampling, load_image(paths[0]).size)
            expected.append(_stock(pipeline, {**edit.defaults, **small}, edit, paths, job.prompt, sampling))
        forwards_alone = alone.stop()
        for _ in range(repeats):
            before = generator.facts()["engine"]
            outputs = _together(generator, jobs)
            after = generator.facts()["engine"]
    finally:
        generator.close()
    difference = 0
    for output, stock in zip(outputs, expected, strict=True):
        if output.error is not None:
            raise output.error
        made = np.asarray(output.images[0])
        assert made.shape == stock.shape, (made.shape, stock.shape)
        difference = max(difference, int(np.abs(made.astype(int) - stock.astype(int)).max()))
    forwards, rows_made = (after[key]["transformer"] - before.get(key, {}).get("transformer", 0)
                           for key in ("forwards", "rows"))  # fmt: skip
    return Comparison(difference, rows_made / forwards, forwards, forwards_alone, len(jobs))


def _together(generator: OmniGenerator, jobs: Sequence[Job]) -> list[Output]:
    """All start at once, however long it takes to read their pictures."""
    engine = generator._omni.engine
    with engine.paused():  # type: ignore[union-attr]
        futures = [generator.submit(job) for job in jobs]
        while sum(future.done() for future in futures) + len(engine.live()) < len(jobs):  # type: ignore[union-attr]
            sleep(0.01)
    return [future.result() for future in futures]


def _stock(
    pipeline: Any, defaults: Mapping[str, Any], edit: EditModel, paths: list[str], prompt: str, sampling: SamplingParams
) -> np.ndarray:
    images = [load_image(path) for path in paths]
    names = ("height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt")
    given = {name: getattr(sampling, name) for name in names if getattr(sampling, name) is not None}
    image = images if edit.as_list or len(images) > 1 else images[0]
    seed = int(sampling.seed or 0)
    torch.manual_seed(seed)
    made = pipeline(
        **{**defaults, **given}, prompt=prompt, image=image, generator=torch.Generator("cpu").manual_seed(seed)
    )
    return np.asarray(made.images[0])


class _Count:
    """How often a module is called."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls = 0
        self._hook = module.register_forward_hook(self._on_call)

    def _on_call(self, *_: Any) -> None:
        self.calls += 1

    def stop(self) -> int:
        self._hook.remove()
        return self.calls


def table() -> str:
    """Rows a forward of the transformer: edits that are alike, those that differ, and those with much padding."""
    lines = [
        "| Model type | Pipeline | Pictures | Alike | Mixed | Mixed, padded | Furthest from diffusers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, edit in EDIT_MODELS.items():
        found = []
        for alike, tolerance in ((True, 0.1), (False, 0.1), (False, 0.5)):
            with tempfile.TemporaryDirectory() as folder:
                found.append(compare(name, Path(folder), alike=alike, tolerance=tolerance, repeats=2))
        rows = " | ".join(f"{one.mean_rows:.1f}" for one in found)
        many, furthest = "many" if edit.many else "one", max(one.difference for one in found)
        lines.append(f"| {name} | {edit.pipeline} | {many} | {rows} | {furthest}/255 |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table())
