"""What every bench ends with: the same again from its command, and the machine that it ran on."""

import inspect
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from interlace.bench.load.latency import latency
from interlace.bench.load.serving import serving
from interlace.bench.load.stages import stages
from interlace.bench.load.throughput import throughput
from interlace.bench.machine import describe_machine
from interlace.bench.planning.batch_curve import batch_curve
from interlace.bench.planning.check import check
from interlace.bench.planning.simulate import simulate
from interlace.bench.result import command_of, write_result
from interlace.bench.settings.quality import quality
from interlace.bench.settings.speed import speed
from interlace.cli.main import app

MACHINE = {"machine", "cores", "load_average", "date", "versions"}


def asked(command: str) -> dict[str, Any]:
    """The arguments that the command line makes of it."""
    name, *words = shlex.split(command)
    assert name == "interlace"
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        found |= vars(value) if is_dataclass(value) else {name: value}
    return found


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object at the end of a bench, which says how to ask for it again and where it ran."""
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    arguments = asked(result["command"])
    assert {name: result[name] for name in ("num_requests", "repeats") if name in result}.items() <= arguments.items()
    assert result.get("client", result).keys() >= MACHINE
    return result


@pytest.mark.parametrize(
    ("name", "bench", "given"),
    [
        ("throughput", throughput, {"workload": "close", "torch_dtype": "float32", "device": "cpu"}),
        ("latency", latency, {"loads": (0.5, 1.0), "policy": "sjf"}),
        ("quality", quality, {"cache_types": (), "hold_guidance_after": (0.5,)}),
        ("speed", speed, {"optimize": (), "dtypes": (), "engine_options": ("packing", "alone")}),
        ("stages", stages, {"deploy_config": Path("two stages.yaml")}),
        ("serving", serving, {"mix": ["64x64/2:0.5"], "burst": True, "compare": True}),
        ("simulate", simulate, {"profile": "sdxl-h100", "rate": 2.5, "steps": (8, 16)}),
        ("simulate", check, {"check": True, "load": 0.5, "clock": "cpu"}),
        ("batch-curve", batch_curve, {"sizes": (64, 96)}),
    ],
)
def test_the_command_asks_for_every_argument(name: str, bench: Callable[..., None], given: dict[str, Any]) -> None:
    parameters = inspect.signature(bench).parameters.values()
    flags = {p.name: p.default for p in parameters if p.name != "save" and p.default is not p.empty} | given
    expected = {flag: value for flag, value in flags.items() if value is not None and value is not False}
    found = asked(command_of(name, flags))
    assert {flag: type(value)(found[flag]) for flag, value in expected.items()} == expected


def test_keys_and_files_are_not_in_the_command() -> None:
    flags = {"api_key": "secret", "output": Path("here.json"), "plot": Path("here.png"), "rate": 1.0}
    assert command_of("serving", flags) == "interlace bench serving --rate 1.0"


def test_a_result_is_one_line_here_and_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result({"a": 1}, tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text() == capsys.readouterr().out == '{"a": 1}\n'


def test_the_machine_is_named() -> None:
    facts = describe_machine()
    assert facts.keys() == MACHINE
    assert facts["machine"]
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert all(facts["versions"].values())
