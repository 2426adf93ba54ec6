"""`--replicas auto`: one a GPU, on a CPU what was measured here, and one engine where nothing was."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from interlace.cli.flags.devices import ReplicaFlags
from interlace.engine.group.config import GroupConfig
from interlace.errors import InvalidRequestError
from interlace.stages.replicas.choice import choose_replicas, keep_choice
from tests.tiny import save_tiny_flux


def test_gpus_are_divided_among_groups_and_a_cpu_goes_by_what_was_measured(tmp_path: Path) -> None:
    two = {"OMP_NUM_THREADS": "2", "INTERLACE_CACHE_DIR": str(tmp_path)}
    assert choose_replicas("demo", 8, 1, two) == 8
    assert choose_replicas("demo", 8, 4, two) == 2
    assert choose_replicas("demo", 0, 1, two) == 1
    keep_choice("demo", 2, 1.2, two)
    assert choose_replicas("demo", 0, 1, two) == 2
    assert choose_replicas("other", 0, 1, two) == 1
    assert choose_replicas("demo", 0, 1, {**two, "OMP_NUM_THREADS": "4"}) == 1  # measured with other cores
    keep_choice("demo", 2, 1.01, two)  # not worth the weights once more
    assert choose_replicas("demo", 0, 1, two) == 1


def test_the_flag_takes_auto_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert ReplicaFlags(replicas="auto").count(GroupConfig(), "demo") == 4
    assert ReplicaFlags(replicas="auto").count(GroupConfig(rows_degree=2), "demo") == 2
    assert ReplicaFlags(replicas="auto", num_gpus=2).count(GroupConfig(), "demo") == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert ReplicaFlags(replicas="auto").count(GroupConfig(), "demo") == 1
    with pytest.raises(InvalidRequestError, match="replicas"):
        ReplicaFlags(replicas=0).count(GroupConfig())


def test_the_bench_compares_equal_pictures_and_keeps_what_won(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sides_here: None
) -> None:
    model, file = save_tiny_flux(tmp_path), Path(__file__).parents[2] / "bench" / "replicas.py"
    spec = importlib.util.spec_from_file_location("replicas_bench", file)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = ["--model-name", str(model), "--num-requests", "3", "--repeats", "1", "--keep"]
    monkeypatch.setattr(sys, "argv", ["replicas.py", *words])
    assert bench.main() == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["max_abs_diff"] <= 1
    assert told["better"] in (1, 2)
    worth = told["replicas_are"] >= 1.03
    assert choose_replicas(str(model), 0) == (2 if worth else 1)
