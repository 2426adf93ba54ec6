"""The memory budget: what is measured, how rows and requests wait for it, how decodes shrink, what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.config import EngineConfig
from interlace.engine.calls.call import ModuleCall, Target
from interlace.engine.memory.fitting import Fitting
from interlace.engine.memory.footprint import Footprint, budget_of, weight_bytes
from interlace.engine.policy.line import Line, Waiting
from interlace.engine.policy.memory import MemoryModel
from interlace.engine.policy.pending import DENOISE, Pending
from interlace.engine.policy.scheduler import Scheduler
from interlace.errors import InvalidRequestError, TooLargeError
from interlace.units import parse_bytes, show_bytes
from tests.tiny import tiny_flux

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    made = tiny_flux()
    made.set_progress_bar_config(disable=True)
    return made


def request(seed: int, size: int = 32, **changes: Any) -> dict[str, Any]:
    return {
        "prompt": f"number {seed}",
        "height": size,
        "width": size,
        "num_inference_steps": 3,
        "max_sequence_length": 16,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(seed),
    } | changes


def taken(pipeline: FluxPipeline, module: str, size: int = 32) -> int:
    """Bytes of one row of a module's forward, as an engine with much memory measures them."""
    with Engine(pipeline, memory_budget="1GiB") as engine:
        engine.map([request(0, size)])
        shapes = engine.stats()["memory"]["bytes"]
    return next(sizes["1"] for shape, sizes in shapes.items() if shape.startswith(module + " "))


@pytest.fixture
def within(pipeline: FluxPipeline) -> Iterator[Callable[..., Engine]]:
    """Opens engines whose forwards may take so many bytes beside the weights."""
    opened: list[Engine] = []

    def make(size: int, **options: Any) -> Engine:
        weights = weight_bytes(part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
        opened.append(Engine(pipeline, memory_budget=weights + size, max_batch_rows=None, **options))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


@pytest.mark.parametrize(("text", "size"), [("20GiB", 20 * 2**30), ("1.5 mb", 1_500_000), (7, 7), ("7", 7)])
def test_bytes_are_read_as_people_write_them(text: int | str, size: int) -> None:
    assert parse_bytes("memory_budget", text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "0", 0, "20 apples", True])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(InvalidRequestError, match="expected bytes above 0"):
        EngineConfig(memory_budget=text)


def test_sizes_are_shown_with_their_unit() -> None:
    assert [show_bytes(n) for n in (7, 2048, 3 * MIB, 5 * 2**30)] == ["7 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB"]


def test_a_footprint_is_the_most_that_lived_at_one_time() -> None:
    with Footprint(CPU) as footprint:
        a = torch.ones(1000)  # 4,000 bytes
        for _ in range(5):
            b = a + 1  # the old one and the new one
        del b
        a[:10].add_(1)  # a view, and in place: nothing new
    assert footprint.bytes == 12_000


def test_a_budget_is_what_the_weights_leave(pipeline: FluxPipeline) -> None:
    modules = [pipeline.transformer, pipeline.vae]
    weights = weight_bytes(modules)
    assert weights == weight_bytes([*modules, pipeline.vae]) == sum(p.nbytes for m in modules for p in m.parameters())
    assert budget_of(modules, CPU, EngineConfig(memory_budget=weights + 5)) == (5, weights)
    assert budget_of(modules, CPU, EngineConfig()) == (None, weights)
    left, _ = budget_of(modules, CPU, EngineConfig(memory_utilization=0.5))
    assert left is not None
    assert left > MIB
    with pytest.raises(InvalidRequestError, match="weights take"):
        budget_of(modules, CPU, EngineConfig(memory_budget=weights))


def pending(name: str, rows: int = 1) -> Pending:
    return Pending(name, "unet", "s", DENOISE, rows, rows, int(name), shape="s")


def test_rows_share_a_forward_only_as_far_as_they_fit() -> None:
    memory = MemoryModel(budget=100)
    scheduler = Scheduler(EngineConfig(max_batch_rows=None), memory=memory)
    calls = [pending(str(i)) for i in range(8)]
    assert len(scheduler.next_forward(calls, {})) == 1  # not measured yet
    memory.observe("s", 1, 30)
    assert len(scheduler.next_forward(calls, {})) == 3
    memory.observe("s", 3, 60)  # wider forwards take less than in proportion
    assert len(scheduler.next_forward(calls, {})) == 5


def test_what_paused_requests_hold_counts() -> None:
    memory = MemoryModel(budget=100)
    memory.observe("s", 1, 30)
    memory.hold(5)
    calls = [pending(str(i)) for i in range(8)]
    assert len(Scheduler(EngineConfig(max_batch_rows=None), memory=memory).next_forward(calls, {})) == 2


def test_requests_wait_until_there_is_room() -> None:
    memory = MemoryModel(budget=100)
    scheduler = Scheduler(EngineConfig(), memory=memory)

    def admitted(num_running: int) -> int:
        line = Line()
        line.add(Waiting(str(i), None, 0.0, i) for i in range(16))
        scheduler.next_forward([], {})  # none is on its way
        return len(scheduler.admit(line, num_running, 0.0)[0])

    assert admitted(0) == 16
    memory.observe("s", 1, 40)
    memory.hold(20)
    assert [admitted(0), admitted(2), admitted(3)] == [3, 1, 0]
    memory.hold(1000)
    assert admitted(0) == 1  # something always runs


def test_without_a_budget_nothing_is_measured(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as engine:
        engine.map([request(0)])
        assert engine.stats()["memory"]["bytes"] == {}
        assert engine.stats()["memory"]["budget_bytes"] is None


def test_forwards_stay_within_the_budget_and_outputs_equal(
    pipeline: FluxPipeline, within: Callable[..., Engine]
) -> None:
    alone = [pipeline(**request(i)).images for i in range(6)]
    engine = within(int(2.5 * max(taken(pipeline, "transformer"), taken(pipeline, "vae.decode"))))
    for result, expected in zip(engine.map([request(i) for i in range(6)]), alone, strict=True):
        assert np.abs(result.images - expected).max() < 1e-5
    stats = engine.stats()
    assert max(stats["widths"]["transformer"]) == 2
    sizes = [size for known in stats["memory"]["bytes"].values() for size in known.values()]
    assert max(sizes) <= stats["memory"]["budget_bytes"]
    assert stats["out_of_memory"] == 0


def test_too_large_alone_is_refused_with_the_numbers_and_harms_nobody(
    pipeline: FluxPipeline, within: Callable[..., Engine]
) -> None:
    large, small = taken(pipeline, "transformer", 128), taken(pipeline, "transformer", 16)
    engine = within((large + small) // 2)
    engine.map([request(0, 128)])  # measured in its first forward at the latest
    refused, fine = engine.map([request(1, 128), request(2, 16)])
    assert isinstance(refused, TooLargeError)
    assert show_bytes(large) in str(refused)
    assert "memory_budget" in str(refused)
    assert np.abs(fine.images - pipeline(**request(2, 16)).images).max() < 1e-5


def test_a_decode_of_several_pictures_that_does_not_fit_runs_in_slices(
    pipeline: FluxPipeline, within: Callable[..., Engine]
) -> None:
    engine = within(int(3.5 * taken(pipeline, "vae.decode", 64)))
    wanted = pipeline(**request(0, 64, num_images_per_prompt=4)).images
    (result,) = engine.map([request(0, 64, num_images_per_prompt=4)])
    assert np.abs(result.images - wanted).max() < 1e-5
    assert not pipeline.vae.use_slicing


def test_a_decode_that_does_not_fit_runs_in_tiles_as_diffusers_does(
    pipeline: FluxPipeline, within: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    whole = taken(pipeline, "vae.decode", 64)  # four tiles' worth: tiles are 32 pixels a side
    engine = within(whole - 1)
    result, again = engine.map([request(0, 64), request(1, 64)])
    assert "decoded in tiles" in caplog.text
    assert caplog.text.count("decoded in tiles") == 1
    assert not pipeline.vae.use_tiling
    pipeline.vae.enable_tiling()
    try:
        tiled = [pipeline(**request(i, 64)).images for i in (0, 1)]
    finally:
        pipeline.vae.disable_tiling()
    assert np.abs(result.images - tiled[0]).max() < 1e-5
    assert np.abs(again.images - tiled[1]).max() < 1e-5
    (tiles,) = [known["1"] for shape, known in engine.stats()["memory"]["bytes"].items() if "tiles" in shape]
    assert tiles < whole


@pytest.mark.parametrize(("share", "refused"), [(2.0, False), (0.9, True)])
def test_a_picture_is_refused_when_not_even_its_tiles_fit(pipeline: FluxPipeline, share: float, refused: bool) -> None:
    tile = taken(pipeline, "vae.decode", 32)
    target = Target.of("vae", pipeline.vae, "decode", pipeline.vae.decode)
    call = ModuleCall(target, (torch.randn(1, 4, 64, 64),), {"return_dict": False}, None)
    fitting = Fitting(MemoryModel(budget=int(share * tile)))
    assert (fitting.refusal(call, call.shape, 1) is not None) == refused
