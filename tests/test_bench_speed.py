"""The speed bench: every setting beside the model without it, with the same pictures. No times are asserted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interlace.bench.settings import speed as speed_bench
from interlace.cli.main import run
from interlace.engine.engine import Engine
from tests.test_bench_result import printed

pytestmark = pytest.mark.usefixtures("sides_here")
SMALL = ["bench", "speed", "--num-requests", "2", "--num-inference-steps", "2", "--repeats", "1"]
ROUNDING = 1e-4  # of a pixel of 1: what docs/speed.md calls the same picture
PRECISION = 0.02  # bfloat16, in the mean: slightly other, which an edge of a shape can make much of


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiles with the quick backend, and the names of what was compiled; inductor takes minutes."""
    names: list[str] = []
    compile_it: Callable[..., None] = torch.nn.Module.compile

    def quickly(block: torch.nn.Module, **how: Any) -> None:
        names.append(type(block).__name__)
        compile_it(block, backend="eager", **how)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    return names


def test_by_default_each_optimization_is_beside_the_model_without(
    compiled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(SMALL) == 0
    result = printed(capsys)
    assert result["workload"] == "uniform"
    assert result["num_inference_steps"] == 2
    assert result["model"] == "demo"
    none, *others = result["settings"]
    assert [row["name"] for row in others] == ["compile", "channels_last", "fuse_qkv", "bfloat16"]
    assert [row["optimize"] for row in others] == ["compile", "channels_last", "fuse_qkv", None]
    assert others[-1]["dtype"] == "bfloat16"
    assert none["name"] == "none"
    assert (none["speedup"], none["max_difference"]) == (1.0, 0.0)
    assert all(row["seconds"] > 0 and row["first_s"] > 0 and row["speedup"] > 0 for row in result["settings"])
    assert all(row["max_difference"] <= ROUNDING for row in others[:-1])
    assert 0 < others[-1]["mean_difference"] <= PRECISION
    assert all(row["mean_difference"] <= row["max_difference"] + 1e-5 for row in result["settings"])
    assert compiled
    assert all("Block" in name for name in compiled)


def test_engine_options_share_otherwise_and_draw_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[float] = []

    class Counted(Engine):
        def close(self) -> None:
            rows.append(self.stats()["mean_rows"]["transformer"])
            super().close()

    monkeypatch.setattr(speed_bench, "Engine", Counted)
    options = ["--workload", "close", "--optimize", "--dtypes", "--engine-options", "packing", "alone"]
    assert run([*SMALL, *options]) == 0
    result = printed(capsys)
    assert result["workload"] == "close"
    assert [row["name"] for row in result["settings"]] == ["none", "packing", "alone"]
    assert [row["engine_option"] for row in result["settings"]] == [None, "packing", "alone"]
    assert all(row["max_difference"] <= ROUNDING for row in result["settings"])
    none, packing, alone = rows[:3]  # later turns begin with another
    assert none == alone == 1  # two sizes, which only packing brings together
    assert packing == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--optimize --dtypes --engine-options pack", "expected some of packing, batch_invariant, auto, alone"),
        ("--dtypes --optimize channel_last", "known are auto, channels_last, compile"),
        ("--optimize --dtypes int3", "expected float32, bfloat16 or float16"),
        ("--optimize --dtypes --attention-backends nativ", "did you mean 'native'"),
        ("--optimize --dtypes --workload heavy", "expected one of uniform, mixed"),
        ("--optimize --dtypes --workload edit", "takes no images"),
        ("--repeats 0", "0 repeats; expected at least 1"),
        ("--num-requests 0", "0 requests"),
        ("--num-inference-steps 0", "0 steps"),
        ("--num-inference-steps few", "few"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "speed", *flags.split()]) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split())
    assert captured.out == ""
