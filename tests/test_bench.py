"""The throughput bench: what it prints is whole, and its outputs were checked. No times are asserted."""

import json
from pathlib import Path

import pytest

from interlace.bench.throughput import throughput
from interlace.errors import InvalidRequestError
from tests.tiny import save_tiny_flux

KEYS = {
    "workload", "device", "dtype", "model", "seconds", "ratio_vs_sequential", "ratio_vs_static", "ratio_vs_request",
    "max_abs_diff", "forwards", "engine_overhead_fraction",
}  # fmt: skip


@pytest.mark.parametrize("workload", ["uniform", "mixed"])
def test_last_line_is_one_json_object_and_outputs_are_equal(
    tmp_path: Path, workload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_flux(tmp_path)
    throughput(model_name=str(tmp_path), workload=workload, num_requests=4)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result.keys() >= KEYS
    assert set(result["seconds"]) == {"sequential", "static", "request", "interlace"}
    assert result["max_abs_diff"] < 1e-4
    assert 0 <= result["engine_overhead_fraction"] < 1


def test_an_unknown_workload_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    save_tiny_flux(tmp_path)
    with pytest.raises(InvalidRequestError, match="expected one of uniform, mixed"):
        throughput(model_name=str(tmp_path), workload="heavy")
