"""The throughput bench: what it prints is whole, and its outputs were checked. No times are asserted."""

import json
from pathlib import Path

import pytest
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict

from interlace import Engine
from interlace.bench.load.latency import latency
from interlace.bench.load.percentiles import percentile
from interlace.bench.load.throughput import throughput
from interlace.bench.load.workloads import make_requests
from interlace.bench.planning import sizing
from interlace.bench.planning.batch_curve import batch_curve
from interlace.bench.settings.quality import quality
from interlace.cli.main import run
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from tests.test_bench_result import printed
from tests.tiny import save_tiny_flux, tiny_flux

pytestmark = pytest.mark.usefixtures("sides_here")
KEYS = {
    "workload", "device", "dtype", "model", "seconds", "ratio_vs_sequential", "ratio_vs_static", "ratio_vs_request",
    "max_abs_diff", "forwards", "forward_fraction", "engine_overhead_fraction",
}  # fmt: skip


@pytest.mark.parametrize("workload", ["uniform", "mixed"])
def test_last_line_is_one_json_object_and_outputs_are_equal(
    tmp_path: Path, workload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_flux(tmp_path)
    throughput(model_name=str(tmp_path), workload=workload, num_requests=4, repeats=1)
    result = printed(capsys)
    assert result.keys() >= KEYS
    assert set(result["seconds"]) == {"sequential", "static", "request", "interlace"}
    assert result["max_abs_diff"] < 1e-4
    assert all(0 <= result[name] <= 1 for name in ("engine_overhead_fraction", "forward_fraction"))


def test_requests_over_adapters_mixed_apart_and_stock_draw_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_flux(tmp_path)
    pipeline = tiny_flux()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config)
    tensors = get_peft_model_state_dict(pipeline.transformer)
    FluxPipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=tensors, weight_name="ink.safetensors")
    throughput(model_name=str(tmp_path), workload="lora", num_requests=4, repeats=1)
    result = printed(capsys)
    assert set(result["seconds"]) == {"sequential", "apart", "mixed"}
    assert result["max_abs_diff"] < 1e-4
    assert set(result["forwards"]) == {"apart", "mixed"}
    assert not result["unfused"]


def test_an_unknown_workload_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    save_tiny_flux(tmp_path)
    with pytest.raises(InvalidRequestError, match="expected one of uniform, mixed"):
        throughput(model_name=str(tmp_path), workload="heavy")


@pytest.mark.parametrize("workload", ["small", "turbo", "dataset-c"])
def test_workloads_repeat_and_fit_the_model(workload: str) -> None:
    model = load_model("demo")
    one, again = (make_requests(model, workload, 5, seed=3) for _ in range(2))
    for first, second in zip(one, again, strict=True):
        assert {k: v for k, v in first.items() if k != "generator"} == {
            k: v for k, v in second.items() if k != "generator"
        }
        assert 64 <= first["height"] <= 192
        assert first["height"] % 16 == 0


def test_edits_need_a_model_that_takes_images() -> None:
    with pytest.raises(InvalidRequestError, match="takes no images"):
        make_requests(load_model("demo"), "edit", 1, seed=0)
    request = make_requests(load_model("demo-edit"), "edit", 1, seed=0)[0]
    assert request["image"].size == (request["width"], request["height"])


def test_latency_replays_the_same_arrivals_for_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    latency(workload="turbo", num_requests=3, loads=(1.0,), max_num_seqs=4)
    result = printed(capsys)
    ways = result["loads"]["1.0"]
    assert set(ways) == {"interlace", "request", "sequential"}
    assert all(w["p50_s"] <= w["p95_s"] <= w["p99_s"] and 0 <= w["attained"] <= 1 for w in ways.values())
    assert result["capacity_per_s"] > 0


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, q) for q in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([3.0], 95) == 3.0


def test_a_profile_is_known_to_the_next_engine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    batch_curve(sizes=(64,), max_rows=2, repeats=1, save=True, plot=tmp_path / "curve.png")
    result = printed(capsys)
    model = load_model("demo")
    with Engine(model.pipeline) as engine:
        assert set(engine.stats()["cost"]) == set(result["curves"])
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_batch_sizes_are_measured_against_memory_and_speed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_MAX_BATCH", 4)
    save_tiny_flux(tmp_path)
    flags = ["info", "--model-name", str(tmp_path), "--height", "32"]
    assert run([*flags, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["batches"]
    assert [line["batch_size"] for line in table["batches"]] == [1, 2, 4]
    sizes = [line["bytes"] for line in table["batches"]]
    assert table["weight_bytes"] < sizes[0] < sizes[1] < sizes[2]
    assert all(line["fits"] and line["pictures_per_s"] > 0 for line in table["batches"])
    assert table["recommended_batch_size"] in (1, 2, 4)
    forwards = [line["forward_bytes"] for line in table["batches"]]
    budget = table["weight_bytes"] + forwards[1]
    assert run([*flags, "--memory-budget", str(budget)]) == 0
    assert "too large" in capsys.readouterr().out
    assert run(["info", "--model-name", str(tmp_path), "--height", "33"]) == 2
    assert run(["info", "--height", "32"]) == 2


def test_quality_compares_each_cache_with_no_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "quality.png"
    quality(num_requests=2, num_inference_steps=6, thresholds=(0.5,), hold_guidance_after=(0.5,), repeats=1, plot=plot)
    rows = printed(capsys)["settings"]
    kinds = ["none", "step_cache", "first_block_cache", "hold_guidance_after"]
    assert [row["cache_type"] for row in rows] == kinds
    assert rows[3]["skipped"] == 2 * 3  # of each request's six steps
    assert rows[0]["psnr_db"] is None
    assert rows[0]["ssim"] == 1.0
    assert rows[1]["skipped"] > 0
    assert rows[1]["psnr_db"] > 5
    assert all(0 <= row["right"] <= 1 for row in rows)
    assert plot.stat().st_size > 1000
