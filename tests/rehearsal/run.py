"""Three mixed requests of each family through `Engine` on a device that isn't there, once new and once warm.

What the engine waits for is told from what the pipelines wait for, by who asked. Outputs are compared with stock
pipelines on the CPU.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig

from interlace import Engine
from interlace.demo import MODELS
from tests.rehearsal.device import NAME, RECORD, OnDevice, on_device
from tests.test_adapters import activate
from tests.test_families import difference, stock
from tests.zoo import FAMILIES, Family

REHEARSED = (
    "demo",
    "flux",
    "flux-kontext",
    "chroma",
    "qwen-image",
    "sd3.5",
    "sd15-euler",
    "sdxl",
    "pixart-sigma",
    "z-image",
    "wan",
)
_ADAPTED = ("demo", "flux", "sdxl")  # one of their requests has an adapter
_TOLERANCE = 1e-4


@dataclass
class Rehearsal:
    """What one family came to. Waits are (who, kind, where, why) with their number."""

    name: str
    difference: float
    new: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    warm: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    races: list[str] = field(default_factory=list)
    windows: int = 0  # decodes beside the main stream
    forwards: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    unfused: dict[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """What would be wrong on a GPU: waits for no reason, races, other pictures."""
        found = [f"{self.name}: {text}" for text in dict.fromkeys(self.races)]
        for who, kind, where, why in (*self.new, *self.warm):
            if who == "engine" and not why:
                found.append(f"{self.name}: the engine waits for the device ({kind}) in {where}")
        found += [f"{self.name}: {label}: {why}" for label, why in self.unfused.items() if "raised" in why]
        if not self.difference < _TOLERANCE:
            found.append(f"{self.name}: outputs differ by {self.difference:.1e} from the CPU's")
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "difference": self.difference,
            "faults": self.faults,
            "forwards": self.forwards,
            "windows": self.windows,
            "new": _plain(self.new),
            "warm": _plain(self.warm),
        }


def _plain(waits: Counter[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
    keys = ("who", "kind", "where", "why", "times")
    return [dict(zip(keys, (*wait, n), strict=True)) for wait, n in waits.most_common()]


def _demo() -> Family:
    def requests() -> list[dict[str, Any]]:
        sizes, steps = ((64, 64), (96, 64), (64, 64)), (3, 4, 2)
        return [
            {
                "prompt": prompt,
                "height": height,
                "width": width,
                "num_inference_steps": n,
                "guidance_scale": 2.0 + n,
                "generator": torch.Generator().manual_seed(n),
                "output_type": "np",
            }
            for prompt, (height, width), n in zip(("a red circle", "a blue star", "a cross"), sizes, steps, strict=True)
        ]

    def build() -> Any:
        from diffusers import FluxPipeline

        pipeline = FluxPipeline.from_pretrained(MODELS["demo"].path, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return Family("demo", build, requests)


def rehearse(name: str) -> Rehearsal:
    """One family. Raises what a request raises."""
    family = _demo() if name == "demo" else FAMILIES[name]
    pipeline, wanted = family.build(), [None, None, {"line": 0.7} if name in _ADAPTED else None]
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    if name in _ADAPTED:
        torch.manual_seed(0)
        denoiser.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False), "line")
        activate(denoiser, {})
    expected = []
    for kwargs, own in zip(family.requests()[:3], wanted, strict=True):
        if name in _ADAPTED:
            activate(denoiser, own or {})
        expected.append(stock(pipeline, kwargs))
    if name in _ADAPTED:
        activate(denoiser, {})
    with on_device():
        pipeline.to(f"{NAME}:0")
        with Engine(pipeline, max_batch_rows=None) as engine:  # what was measured would decide how many meet
            engine._runner.post(OnDevice().__enter__)
            found = Rehearsal(name, 0.0)
            for waits in (found.new, found.warm):
                RECORD.clear()
                outputs = _together(engine, family, wanted)
                waits.update(RECORD.waits)
                found.races += RECORD.races
                found.windows += sum(order[:2] == ("wait", "main") for order in RECORD.orders)
                found.difference = max(found.difference, *map(difference, outputs, expected))
            stats = engine.stats()
            found.forwards, found.rows, found.unfused = stats["forwards"], stats["rows"], stats["unfused"]
    return found


def _together(engine: Engine, family: Family, wanted: Iterable[Any]) -> list[Any]:
    """All at once, so that they meet in the same forwards at every run."""
    futures: list[Future[Any]] = []
    with engine.paused():
        for kwargs, own in zip(family.requests()[:3], wanted, strict=True):
            futures.append(engine.submit(kwargs, adapters=own, preview_every=1, listener=lambda event: None))
    return [future.result(timeout=300) for future in futures]
