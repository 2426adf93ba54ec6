"""python -m tests.rehearsal [--fault=NAME] [FAMILY...]: last on stdout is one JSON object; status 1 on a fault.

`--fault`: with something wrong put into the engine, which has to be found. cpu: a copy to the host in the executor's
way; device: an argument that stays on the host; race: decodes that don't wait for what they decode.
"""

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch

from interlace.engine.calls import executor
from interlace.engine.device.streams import StreamPair
from tests.rehearsal.device import set_up
from tests.rehearsal.run import REHEARSED, Rehearsal, rehearse


def main(arguments: list[str]) -> int:
    """Rehearses the families that are named, or all."""
    torch.set_num_threads(1)
    set_up()
    for name, put in _FAULTS.items():
        if f"--fault={name}" in arguments:
            put()
    names = [one for one in arguments if not one.startswith("--")] or REHEARSED
    found: list[Rehearsal] = []
    faults: list[str] = []
    for name in names:
        try:
            one = rehearse(name)
        except Exception as error:
            traceback.print_exc()
            faults.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        found.append(one)
        faults += one.faults
        print(f"{one.name}: differs by {one.difference:.1e} from the CPU; forwards {one.forwards}, rows {one.rows}")
        for title, waits in (("new", one.new), ("warm", one.warm)):
            _show(title, waits)
    _show_totals(found)
    print(*faults, sep="\n", file=sys.stderr)
    print(json.dumps({"faults": faults, "families": {one.name: one.as_dict() for one in found}}))
    return int(bool(faults))


def _show_totals(found: Sequence[Rehearsal]) -> None:
    waits = sum((one.warm for one in found), Counter[tuple[str, str, str, str]]())
    engine, pipelines = Counter[str](), Counter[str]()
    for (who, kind, _, why), n in waits.items():
        (engine if who == "engine" else pipelines)[why if who == "engine" else kind] += n
    print(f"all, warm: the engine waits {engine.total()} times: {dict(engine.most_common())}")
    print(f"           the pipelines {pipelines.total()} times: {dict(pipelines.most_common())}")


def _show(title: str, waits: Counter[tuple[str, str, str, str]]) -> None:
    engines = sum(n for (who, *_), n in waits.items() if who == "engine")
    print(f"  {title}: the engine waits {engines} times, the pipeline {waits.total() - engines} times")
    for (who, kind, where, why), n in waits.most_common():
        print(f"    {n:4} {who:8} {kind:14} {where}{f' ({why})' if why else ''}")


def _after_fusing(change: Callable[[dict[str, Any], str], object]) -> None:
    fuse: Any = executor.fuse

    def faulty(*args: Any) -> Any:
        fused = fuse(*args)
        name = next((name for name, one in fused[1].items() if isinstance(one, torch.Tensor)), None)
        if name is not None:
            change(fused[1], name)
        return fused

    executor.fuse = faulty  # type: ignore[assignment]


def _without_waiting() -> None:
    def queued_aside(lanes: Any) -> Any:
        return lanes._module.stream(lanes._aside)

    StreamPair.queued_aside = queued_aside  # type: ignore[method-assign]


_FAULTS: dict[str, Callable[[], None]] = {
    "cpu": lambda: _after_fusing(lambda kwargs, name: kwargs[name].cpu()),
    "device": lambda: _after_fusing(lambda kwargs, name: kwargs.update({name: torch.zeros(kwargs[name].shape)})),
    "race": _without_waiting,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
