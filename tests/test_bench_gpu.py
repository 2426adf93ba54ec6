"""The GPU check on a CPU with tiny models: every part answers, partial results are kept, the page shows them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from interlace.bench import sides
from interlace.bench.gpu.check import PAGE, RESULT, GpuCheck, PartAnswers, gpu
from interlace.bench.gpu.device import GpuTarget
from interlace.bench.gpu.families import FAMILIES
from interlace.bench.gpu.overlap import idle_of
from interlace.bench.gpu.plan import GpuPart, GpuSide, plan
from interlace.bench.gpu.report import is_exact, ratios, render
from interlace.bench.gpu.requests import RequestMaker, joined, static_batches
from interlace.cli.main import run
from tests.answering import answering
from tests.test_bench_result import printed

TINY = GpuTarget("cpu", "float32", tiny=True)


@pytest.mark.usefixtures("sides_here")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_a_family_gives_its_answers(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu(output_dir=tmp_path, tiny=True, device="cpu", models=(family,)) == 0
    result = printed(capsys)
    parts = result["parts"]
    assert {name for name, part in parts.items() if part["status"] != "done"} == set()
    wanted = {
        part.name: sum(len(side.asks) for side in part.sides) for part in plan(TINY, (family,), tuple(_kinds(parts)))
    }
    assert {name: len(part["answers"]) for name, part in parts.items()} == wanted
    exact = parts[f"exact/{family}"]["answers"][0]
    assert is_exact(exact)
    assert exact["batch_invariant_equal"]
    assert exact["spread"] > 0.001
    assert not exact["unfused"]
    assert max(exact["mean_rows"].values()) > 1
    load = parts[f"load/{family}"]["answers"]
    assert ratios(load, "mixed").keys() == {"stock", "static"}
    assert max(one["mean_rows"][FAMILIES[family].denoiser] for one in load if "mean_rows" in one) > 1
    forwards = parts[f"forwards/{family}"]["answers"]
    assert all(one["tflop"] >= 0 and one["ms"] > 0 for one in forwards if "left_out" not in one)
    assert {one["mode"] for one in forwards if "left_out" in one} == {"graph"}  # there is no GPU
    assert json.loads((tmp_path / RESULT).read_text()) == result
    assert family in (tmp_path / PAGE).read_text()


def _kinds(parts: dict[str, object]) -> set[str]:
    return {name.partition("/")[0] for name in parts}


@pytest.mark.parametrize("family", FAMILIES)
def test_real_models_have_the_size_of_those_that_they_stand_for(family: str) -> None:
    billions = {"flux.1-dev": 11.9, "sdxl": 2.57, "sd3.5-medium": 2.24, "qwen-image": 20.4}  # of the denoiser
    part = FAMILIES[family].parts[FAMILIES[family].denoiser]
    with torch.device("meta"):
        module = part.kind(**part.config)
    assert sum(value.numel() for value in module.parameters()) / 1e9 == pytest.approx(billions[family], rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_fit_the_real_models(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their forwards run without numbers (on meta), at the real sizes and widths."""
    own, seen = FAMILIES[family], []
    with torch.device("meta"):
        modules = {name: part.kind(**part.config).to(torch.bfloat16) for name, part in own.parts.items()}
    kind, config = own.scheduler
    pipeline = own.pipeline(scheduler=kind(**config), **modules, **dict.fromkeys(own.left_out))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(own.pipeline, "_execution_device", torch.device("cpu"))
    denoiser = modules[own.denoiser]
    forward = denoiser.forward

    def without_numbers(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, lambda value: value.to("meta"), (args, kwargs))
        output = tree_map_only(
            torch.Tensor, lambda value: torch.zeros(value.shape, dtype=value.dtype), forward(*args, **kwargs)
        )
        seen.append(output[0].shape)
        return output

    denoiser.forward = without_numbers
    maker = RequestMaker(own, torch.device("cpu"), torch.bfloat16, tiny=False)
    request = {**maker.plain(maker.large, 2, scale=4.0), "output_type": "latent"}
    with torch.no_grad():
        latents = pipeline(**request).images
    assert latents.numel() == (4 if family == "sdxl" else 16) * (maker.large // 8) ** 2
    assert seen


@pytest.mark.parametrize(
    ("asks", "budget_s", "status", "kept"),
    [
        (["a", "fail", "b"], 120, "failed", 3),
        (["a", "die", "b"], 120, "failed", 1),
        (["a", "hang", "b"], 20, "out of time", 1),
    ],
)  # fmt: skip
def test_what_was_answered_is_kept_whatever_comes_after(
    asks: list[str], budget_s: float, status: str, kept: int, tmp_path: Path
) -> None:
    part = GpuPart("load", "flux.1-dev", budget_s, [GpuSide("way", answering, [{"what": what} for what in asks])])
    check = GpuCheck({"date": "today"}, tmp_path, {part.name: PartAnswers()})
    check.run(part, ends=_now() + 1000)
    written = json.loads((tmp_path / RESULT).read_text())["parts"][part.name]
    assert written["status"] == status
    assert len(written["answers"]) == kept
    assert written["answers"][0]["is"] == "a"


def test_a_part_for_which_no_time_is_left_is_named_and_not_begun(tmp_path: Path) -> None:
    part = GpuPart("load", "sdxl", 60, [GpuSide("way", answering, [{"what": "a"}])])
    check = GpuCheck({}, tmp_path, {part.name: PartAnswers()})
    check.run(part, ends=_now() + 1)
    assert json.loads((tmp_path / RESULT).read_text())["parts"][part.name]["status"] == "not begun"
    assert "not begun" in (tmp_path / PAGE).read_text()


def _now() -> float:
    from time import monotonic

    return monotonic()


def test_models_that_need_a_gpu_are_refused_without_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["bench", "gpu", "--device", "cpu", "-o", str(tmp_path)]) == 2
    assert "--tiny" in capsys.readouterr().err
    assert run(["bench", "gpu", "--tiny", "--models", "sd1", "-o", str(tmp_path)]) == 2
    assert "expected some of flux.1-dev, sdxl" in capsys.readouterr().err


def test_idle_is_what_no_kernel_covers() -> None:
    events = [
        {"cat": "kernel", "ts": 0, "dur": 10},
        {"cat": "kernel", "ts": 5, "dur": 10},  # beside the first
        {"cat": "gpu_memcpy", "ts": 40, "dur": 10},
        {"cat": "cpu_op", "ts": 15, "dur": 25},
        {"cat": "kernel", "ts": 60, "dur": 40},
    ]
    told = idle_of(events)
    assert told["kernels"] == 4
    assert told["idle"] == pytest.approx(0.35)  # 25 and 10 of 100 microseconds
    assert told["longest_gap_ms"] == pytest.approx(0.025)
    assert idle_of([{"cat": "cpu_op", "ts": 0, "dur": 1}])["idle"] is None


def test_static_batches_hold_equal_parameters_and_pad_texts_to_the_longest() -> None:
    maker = RequestMaker(FAMILIES["qwen-image"], torch.device("cpu"), torch.float32, tiny=True)
    requests = maker.workload("mixed", 12)
    batches = static_batches(requests, 16)
    assert sorted(index for batch in batches for index in batch) == list(range(12))
    for batch in batches:
        call = joined([requests[index] for index in batch])
        assert len({requests[index]["num_inference_steps"] for index in batch}) == 1
        assert call["prompt_embeds"].shape[0] == len(batch)
        assert int(call["prompt_embeds_mask"].sum()) == sum(
            requests[index]["prompt_embeds"].shape[1] for index in batch
        )


def test_a_page_is_made_of_words_that_can_not_end_it() -> None:
    part = {"status": "failed", "seconds": 1, "error": "<script>alert(1)</script>", "answers": []}
    page = render({"command": "interlace <b>", "parts": {"load/sdxl": part}})
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_side_that_takes_too_long_is_ended() -> None:
    side = sides.Side(partial(answering), deadline=_now() + 60)
    with side:
        assert side("a") == {"is": "a"}
    assert not side._process.is_alive()
