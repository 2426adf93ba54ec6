"""`interlace bench gpu`: runs the plan within its time, and writes what is there after every answer. No torch here.

A part that fails, hangs or runs out of time keeps the answers that it gave, and the next one begins.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console

from interlace.bench import sides
from interlace.bench.gpu.report import write_report
from interlace.bench.machine import describe_machine
from interlace.bench.result import command_of, write_result
from interlace.checks import check_number
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    from interlace.bench.gpu.plan import GpuPart, GpuSide

RESULT, PAGE = "gpu-check.json", "gpu-check.html"
TEXTS = "random prompt embeddings in the place of text encoders; random weights: speed and exactness, no quality"


@dataclass
class PartAnswers:
    """What a part came to: done, failed, out of time or not begun, and its answers so far."""

    status: str = "not begun"
    seconds: float = 0.0
    error: str = ""
    answers: list[dict[str, object]] = field(default_factory=list)


def gpu(
    *,
    output_dir: Path = Path("gpu-check"),
    minutes: float = 9.0,
    models: Sequence[str] = (),
    parts: Sequence[str] = (),
    tiny: bool = False,
    device: str | None = None,
    dtype: str | None = None,
) -> int:
    """Measures what fits into `minutes`; JSON and a page in `output_dir`, the JSON as a line on stdout too.

    Returns 0, or 1 where a part failed. Raises `InvalidRequestError` for names that are none, and without a GPU where
    models aren't tiny.
    """
    named = {"models": models or None, "parts": parts or None, "device": device, "dtype": dtype}
    command = command_of("gpu", {"minutes": minutes, "tiny": tiny, **named})
    from interlace.bench.gpu.device import GpuTarget
    from interlace.bench.gpu.families import FAMILIES
    from interlace.bench.gpu.plan import PARTS, plan
    from interlace.engine.accelerator import default_device
    from interlace.models.loading.devices import check_device

    check_number("minutes", minutes, 0.1)
    chosen = device or default_device()
    check_device(chosen)
    if chosen.startswith("cpu") and not tiny:
        text = "there is no GPU here, and these models are for one; --tiny runs the same with models of a few kilobytes"
        raise InvalidRequestError(text, "device")
    target = GpuTarget(chosen, dtype or ("float32" if tiny else "bfloat16"), tiny)
    todo = plan(target, models or tuple(FAMILIES), parts or PARTS)
    output_dir.mkdir(parents=True, exist_ok=True)
    head = {"command": command, **describe_machine(), "device": chosen, "dtype": target.dtype, "tiny": tiny,
            "minutes": minutes, "texts": TEXTS}  # fmt: skip
    check = GpuCheck(head, output_dir, {part.name: PartAnswers() for part in todo})
    with _alone():
        began = monotonic()
        for part in todo:
            check.run(part, began + 60 * minutes)
    write_result(check.result())
    Console(file=sys.stderr).print(f"written: {output_dir / RESULT}, {output_dir / PAGE}")
    return 1 if any(found.status == "failed" for found in check.found.values()) else 0


@dataclass
class GpuCheck:
    """The run so far, and the files that tell it."""

    head: dict[str, object]
    folder: Path
    found: dict[str, PartAnswers]

    def run(self, part: "GpuPart", ends: float) -> None:
        """One part, until `ends` at most; never raises for what a side did."""
        found, began = self.found[part.name], monotonic()
        if ends - began < part.least_s:
            self._write()
            return
        deadline = min(ends, began + part.budget_s)
        try:
            for side in part.sides:
                self._ask(part.name, side, deadline)
            found.status = "done"
        except TimeoutError:
            found.status, found.error = "out of time", f"after {deadline - began:.0f} s"
        except Exception as error:
            found.status, found.error = "failed", f"{type(error).__name__}: {error}"[:2000]
        found.seconds = round(monotonic() - began, 1)
        if any("error" in answer for answer in found.answers) and found.status == "done":
            found.status = "failed"  # what was wrong is in the answers
        self._say(part.name, f"{found.status} {found.error}")
        self._write()

    def _ask(self, name: str, side: "GpuSide", deadline: float) -> None:
        with sides.SIDE(side.opener, deadline) as opened:
            for ask in side.asks:
                began = monotonic()
                answer: dict[str, object] = {"side": side.name, **ask}
                try:
                    answer |= opened(*ask.values())
                except (TimeoutError, sides.SideEndedError):
                    raise
                except Exception as error:  # this answer's own: the next may go well
                    answer["error"] = f"{type(error).__name__}: {error}"[:2000]
                answer["took_s"] = round(monotonic() - began, 2)
                self.found[name].answers.append(answer)
                words = ", ".join(str(value) for value in ask.values())
                self._say(name, f"{side.name} {words}: {answer.get('error', answer['took_s'])}")
                self._write()

    def result(self) -> dict[str, object]:
        """The JSON object."""
        return {**self.head, "parts": {name: vars(found) for name, found in self.found.items()}}

    def _write(self) -> None:
        result = self.result()
        fresh = self.folder / f"{RESULT}.new"
        fresh.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.folder / RESULT)
        write_report(result, self.folder / PAGE)

    def _say(self, name: str, words: str) -> None:
        print(f"[{name}] {words}", file=sys.stderr, flush=True)


@contextmanager
def _alone() -> Iterator[None]:
    """For the sides: no network, and a cache folder of their own, so that every run learns its costs anew."""
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "INTERLACE_CACHE_DIR")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HF_HUB_OFFLINE="1", INTERLACE_CACHE_DIR=folder)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
