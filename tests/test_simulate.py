"""The simulator: what can be worked out by hand comes out so."""

import json
from pathlib import Path

import pytest

from interlace.bench.planning.check import check, cost_of, with_overheads
from interlace.bench.planning.published import PUBLISHED
from interlace.bench.planning.simulate import ArrivalKind, Forwards, kinds_of, poisson, read_curves, replay, simulate
from interlace.config import EngineConfig
from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.pending import DENOISE, ENCODE
from interlace.errors import InvalidRequestError
from tests.test_bench_result import printed
from tests.tiny import save_tiny_flux


def cost(seconds: dict[str, dict[int, float]]) -> CostModel:
    model = CostModel(settled=True)
    for shape, curve in seconds.items():
        for rows, value in curve.items():
            model.know(shape, rows, value)
    return model


def kind(shape: str = "unet s", steps: int = 10) -> ArrivalKind:
    return ArrivalKind("k", (Forwards(shape, DENOISE, steps),), steps)


FREE = {"unet s": {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}}  # rows cost nothing
FULL = {"unet s": {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}}  # rows cost all


def test_requests_that_arrive_together_share_every_forward() -> None:
    assert replay([(0.0, kind())] * 4, cost(FREE), EngineConfig()) == [10.0] * 4


def test_a_late_request_joins_at_the_next_forward() -> None:
    assert replay([(0.0, kind()), (2.5, kind())], cost(FREE), EngineConfig()) == pytest.approx([10.0, 10.5])


def test_on_a_full_device_requests_run_in_their_order() -> None:
    assert replay([(0.0, kind())] * 3, cost(FULL), EngineConfig()) == [10.0, 20.0, 30.0]


def test_short_ones_go_first_under_sjf() -> None:
    arrivals = [(0.0, kind(steps=40)), (0.0, kind(steps=2))]
    assert replay(arrivals, cost(FULL), EngineConfig(policy="sjf"))[1] == 2.0
    assert replay(arrivals, cost(FULL), EngineConfig())[1] == 42.0


def test_no_more_than_max_num_seqs_run_at_once() -> None:
    assert replay([(0.0, kind())] * 4, cost(FREE), EngineConfig(max_num_seqs=2)) == [10.0, 10.0, 20.0, 20.0]


def test_every_request_ends_and_none_before_its_time_alone() -> None:
    model = cost(FREE)
    arrivals = poisson([kind(steps=3), kind(steps=9)], rate=0.4, count=500, seed=1)
    latencies = replay(arrivals, model, EngineConfig())
    assert all(s >= k.solo_s(model) - 1e-9 for (_, k), s in zip(arrivals, latencies, strict=True))


def curves(path: Path) -> Path:
    shapes = {"transformer T float32: x 64x8": {"1": 100.0, "8": 200.0}, "vae.decode V float32: z 4x8x8": {"1": 20.0}}
    found = {"device": "cpu, 1 threads", "curves": {shape: {"ms": ms} for shape, ms in shapes.items()}}
    path.write_text(json.dumps(found) + "\n")
    return path


def test_it_reads_what_batch_curve_writes(tmp_path: Path) -> None:
    model = read_curves(curves(tmp_path / "curves.json"))
    (found,) = kinds_of(model, (10,), calls_per_step=2)
    assert found.solo_s(model) == pytest.approx(20 * 0.1 + 0.02)


def test_a_fleet_is_as_large_as_the_load_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = curves(tmp_path / "curves.json")
    simulate(curves=path, rate=20.0, num_requests=50, steps=(10,))
    result = printed(capsys)
    assert result["costs_measured_on"] == "cpu, 1 threads"
    assert result["replica_per_s"] > 1 / result["kinds"]["x 64x8/10"]  # sharing serves more than one at a time
    assert result["replicas"] >= 20 / result["replica_per_s"]


@pytest.mark.parametrize("text", ["", "{}", '{"curves": 3}', '{"curves": {"s": {"ms": {"x": 1}}}}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InvalidRequestError):
        kinds_of(read_curves(tmp_path / "other.json"), (1,), 1)


def test_published_profiles_name_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    for name, published in PUBLISHED.items():
        assert published.source.startswith("https://"), name
    simulate(profile="flux.1-dev-h100", rate=10.0, num_requests=20)
    result = printed(capsys)
    assert "H100" in result["costs_measured_on"]
    assert list(result["kinds"].values()) == [6.71]  # 28 steps are what was published
    assert result["replicas"] >= 67
    with pytest.raises(InvalidRequestError, match="one of flux"):
        simulate(profile="abacus", rate=1.0)
    with pytest.raises(InvalidRequestError):
        simulate(rate=1.0)


def test_a_check_compares_prediction_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_flux(tmp_path)
    check(model_name=str(tmp_path), workload="turbo", num_requests=4, clock="cpu")
    result = printed(capsys)
    for name in ("predicted", "predicted_from_own_forwards"):
        assert 0 < result[name]["p50_s"] <= result[name]["p95_s"]
        assert result[name]["p50_error"] == pytest.approx(
            result[name]["p50_s"] / result["measured"]["p50_s"] - 1, abs=0.1
        )
    assert 0 < result["measured"]["p50_s"] <= result["measured"]["p95_s"]


def test_what_python_takes_is_part_of_every_forward() -> None:
    known = with_overheads({"unet s": {1: 1.0, 4: 2.0}}, start_s=0.5, call_s=0.25)
    assert known == {"unet s": {1: 1.25, 4: 3.0}, "request start": {1: 0.5}}
    whole = ArrivalKind("k", (Forwards("request start", ENCODE, 1), Forwards("unet s", DENOISE, 2)), 2)
    assert replay([(0.0, whole)], cost_of(known), EngineConfig()) == [3.0]
