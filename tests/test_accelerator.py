"""engine/accelerator.py: what is known of a device by its type, whichever it is; here on one that is made up."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interlace.bulk.launch.nodes import NodeSettings, place
from interlace.config import EngineConfig
from interlace.engine import accelerator
from interlace.engine.memory.footprint import Footprint, budget_of
from interlace.engine.pipeline.randomness import Randomness
from interlace.engine.visible import Accelerators, accelerators
from interlace.errors import InvalidRequestError
from interlace.models.loading.devices import check_device
from interlace.stages.replicas.placement import placements


@pytest.fixture
def xpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An accelerator of another make than NVIDIA's, two of them, as torch would show it."""
    seen: dict[str, Any] = {"peak": 700}
    module = SimpleNamespace(
        memory_allocated=lambda device: 100,
        max_memory_allocated=lambda device: seen["peak"],
        reset_peak_memory_stats=lambda device: seen.update(peak=100),
        get_device_properties=lambda device: SimpleNamespace(total_memory=1000),
        get_device_name=lambda device: "Arc",
        get_rng_state=lambda device: torch.Generator().manual_seed(device.index).get_state(),
        current_device=lambda: 1,
        device_count=lambda: 2,
        is_available=lambda: True,
        is_initialized=lambda: True,
    )
    real = torch.get_device_module
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module if kind == "xpu" else real(kind))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    return module


def test_memory_is_the_allocators_word_on_whatever_has_one(xpu: SimpleNamespace) -> None:
    device = torch.device("xpu")
    assert budget_of([], device, EngineConfig()) == (800, 100), "nine tenths of 1000, less what is allocated"
    with Footprint(device) as footprint:
        xpu.max_memory_allocated = lambda device: 350
    assert footprint.bytes == 250
    assert accelerator.name_of(device) == "Arc"
    assert accelerator.numbered(device) == torch.device("xpu:1")
    assert accelerator.default_device() == "xpu"


def test_a_request_has_its_own_random_state_on_every_accelerator(xpu: SimpleNamespace) -> None:
    states = Randomness()._states
    assert {str(device) for device in states} == {"cpu", "xpu:0", "xpu:1"}


def test_devices_that_are_not_there_are_refused_by_type(xpu: SimpleNamespace) -> None:
    check_device("xpu:1")
    with pytest.raises(InvalidRequestError, match=r"there are 2 Intel GPUs, from xpu:0"):
        check_device("xpu:2")
    with pytest.raises(InvalidRequestError, match="no Apple GPU"):
        check_device("mps")


def test_processes_are_given_devices_by_the_variable_of_their_type(xpu: SimpleNamespace) -> None:
    masked = {"ZE_AFFINITY_MASK": "2,3"}
    node = place(NodeSettings(num_gpus=2), "xpu", masked)
    assert (node.variable, node.devices) == ("ZE_AFFINITY_MASK", ("2", "3"))
    replicas = placements(2, 1, None, accelerators(masked), num_cores=4)
    assert [one.devices for one in replicas] == [("xpu:0",), ("xpu:0",)]
    assert [one.environment["ZE_AFFINITY_MASK"] for one in replicas] == ["2", "3"]
    (shared,) = placements(1, 2, ["xpu:1", "xpu:1"], accelerators(masked), num_cores=4)
    assert (shared.devices, shared.environment["ZE_AFFINITY_MASK"]) == (("xpu:0", "xpu:0"), "3")
    with pytest.raises(InvalidRequestError, match=r"device xpu:2 is not there; this machine has 2 GPUs"):
        placements(1, 1, "xpu:2", accelerators(masked), num_cores=4)
    with pytest.raises(InvalidRequestError, match="--device cuda exclude each other"):
        place(NodeSettings(num_gpus=1), "cuda", masked)


def test_what_the_environment_does_not_name_is_counted_by_type(
    xpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert accelerators({}) == Accelerators("xpu", ("0", "1"))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    assert accelerators({}).names == (), "there is no dealing out a Mac's only one"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert accelerators({}).names == ()
