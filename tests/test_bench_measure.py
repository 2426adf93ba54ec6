"""bench/measure.py: its commands are commands, and its summary is made of what benches print."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from interlace.cli.main import app

FOLDER = Path(__file__).parent.parent / "bench"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


MEASURE = script("measure")
COMMANDS = {**MEASURE.PARTS, **MEASURE.LONGER}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_part_is_a_command_of_today(name: str) -> None:
    words = COMMANDS[name]
    if words[1] == "-m":
        app.parse_args(words[3:], exit_on_error=False, print_error=False)
    else:
        assert callable(script(Path(words[1]).stem).main)


def test_a_part_that_fails_or_prints_no_json_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURE, "RESULTS", tmp_path)
    assert MEASURE.measure("good", (sys.executable, "-c", "print('told'); print('{\"a\": 1}')"))
    assert not MEASURE.measure("bad", (sys.executable, "-c", "print('{}'); raise SystemExit(3)"))
    assert not MEASURE.measure("silent", (sys.executable, "-c", ""))
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]
    assert json.loads((tmp_path / "good.json").read_text()) == {"a": 1}


def test_the_summary_is_readmes_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MEASURE, "RESULTS", tmp_path)
    ratios = {"ratio_vs_sequential": 2.0, "ratio_vs_static": 1.5, "ratio_vs_request": 1.25}
    (tmp_path / "throughput-x.json").write_text(json.dumps({"workload": "mixed", "max_abs_diff": 1e-5, **ratios}))
    flux = {"omni_takes": 0.912, "a_forward_takes": 1.0}
    (tmp_path / "forwards-cpu.json").write_text(json.dumps({"tasks": {"demo, 1 rows": flux}}))
    (tmp_path / "ways-in-cpu.json").write_text(json.dumps({"of_engine_map": {"t2i, 200 requests": 0.931}}))
    (tmp_path / "other.json").write_text(json.dumps({"machine": "m", "of_engine_map": {"serve": 0.97}}))
    MEASURE.summary(["throughput-x", "forwards-cpu", "ways-in-cpu", "other", "not-begun"])
    lines = capsys.readouterr().out.splitlines()
    row, other = lines[2], lines[-1]
    assert "| demo, 1 rows | 0.91 | 1.00 |" in lines
    assert "| t2i, 200 requests | 0.93 |" in lines
    assert row == "| `mixed` | 2.00x | 1.50x | 1.25x | 1.0e-05 |"
    assert other == 'other: {"of_engine_map": {"serve": 0.97}}'


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURE, "RESULTS", tmp_path)
    monkeypatch.setattr(MEASURE, "STATE", tmp_path / "state.json")
    ran = tmp_path / "ran"
    good = (sys.executable, "-c", f"open({str(ran)!r}, 'a').write('x'); print('{{}}')")
    bad = (sys.executable, "-c", "raise SystemExit(1)")
    assert MEASURE.measure_all({"one": good, "two": bad}, 600) == ["two"]
    assert MEASURE.measure_all({"one": good, "two": good}, 0, resume=True) == ["two"]  # no time left
    assert MEASURE.measure_all({"one": good, "two": good}, 600, resume=True) == []
    assert ran.read_text() == "xx"
    assert not (tmp_path / "state.json").exists()
