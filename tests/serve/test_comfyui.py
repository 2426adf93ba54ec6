"""The ComfyUI nodes against a stub of ComfyUI's interface and a real server."""

import importlib
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from serve.live import ENDLESS, WAIT_S, Live, until

FOLDER = Path(__file__).parents[2] / "integrations"


class Interrupted(Exception):
    """ComfyUI's own."""


class Stub:
    """What of ComfyUI the nodes use: a bar, and whether the queue was interrupted."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int, Any]] = []
        self.interrupt_at: int | None = None

    def ProgressBar(self, total: int) -> "Stub":
        return self

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        self.shown.append((value, total, preview))

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupt_at is not None and len(self.shown) >= self.interrupt_at:
            raise Interrupted


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stub, Any]]:
    stub = Stub()
    package = types.ModuleType("comfy")
    for name in ("utils", "model_management"):
        module = types.ModuleType(f"comfy.{name}")
        module.ProgressBar = stub.ProgressBar
        module.throw_exception_if_processing_interrupted = stub.throw_exception_if_processing_interrupted
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, f"comfy.{name}", module)
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield stub, importlib.import_module("comfyui")
    for name in [name for name in sys.modules if name.partition(".")[0] == "comfyui"]:
        del sys.modules[name]


def run(node: type, server: Live, **given: Any) -> torch.Tensor:
    """As ComfyUI does: the inputs that the node asks for, its function by name."""
    asked = node.INPUT_TYPES()
    known = {**asked["required"], **asked.get("optional", {})}
    assert set(given) <= set(known)
    assert set(asked["required"]) <= {*given, "server"}
    (made,) = getattr(node(), node.FUNCTION)(server=server.url, **given)
    return made


def run_watched(node: type, server: Live, **given: Any) -> torch.Tensor:
    """The same, drawn when the node listens already: it hears of every step and preview."""
    with ThreadPoolExecutor(1) as pool:
        with server.paused():
            made = pool.submit(run, node, server, **given)
            until(lambda: made.done() or any(job.watchers for job in server.state.registry.live()))
        return made.result(WAIT_S)


def test_the_nodes_draw_and_edit(comfy: tuple[Stub, Any], server: Live) -> None:
    stub, nodes = comfy
    draw, edit = (nodes.NODE_CLASS_MAPPINGS[name] for name in ("InterlaceTextToImage", "InterlaceEdit"))
    made = run_watched(draw, server, prompt="a red circle", seed=7, width=128, height=64, steps=8, batch_size=2)
    assert (made.shape, made.dtype) == ((2, 64, 128, 3), torch.float32)
    assert 0 <= made.min() < made.max() <= 1
    values = [value for value, total, _ in stub.shown if total == 100]
    assert len(values) == len(stub.shown) > 4
    assert values == sorted(values)
    previews = [preview for _, _, preview in stub.shown if preview]
    assert previews
    assert (previews[0][0], previews[0][1].size[0] > 0) == ("JPEG", True)
    again = run(draw, server, prompt="a red circle", seed=7, width=128, height=64, steps=8)
    assert torch.allclose(again[0], made[0], atol=3 / 255)
    mask = torch.zeros(1, 64, 128)
    mask[:, :, :64] = 1
    changed = run(edit, server, image=made[:1], prompt="make it blue", seed=1, mask=mask, steps=2)
    assert torch.equal(changed[0, :, 64:], made[0, :, 64:]), "outside of the mask nothing changes"
    assert not torch.equal(changed[0, :, :64], made[0, :, :64])
    with server.http() as http:
        left = http.get("/v1/requests?status=all").json()["data"]
    assert not [job for job in left if job["id"].startswith("comfyui-")], "nothing is left on the server"


def test_an_interrupted_queue_ends_the_request(comfy: tuple[Stub, Any], patient: Live) -> None:
    stub, nodes = comfy
    stub.interrupt_at = 2
    draw, steps = nodes.NODE_CLASS_MAPPINGS["InterlaceTextToImage"], ENDLESS["num_inference_steps"]
    with pytest.raises(Interrupted):
        run(draw, patient, prompt="a", seed=1, width=0, height=0, steps=steps)
    with patient.http() as http:
        assert not [job for job in http.get("/v1/requests").json()["data"] if job["id"].startswith("comfyui-")]


def test_what_is_wrong_is_said_in_the_servers_words(comfy: tuple[Stub, Any], server: Live) -> None:
    _, nodes = comfy
    draw = nodes.NODE_CLASS_MAPPINGS["InterlaceTextToImage"]
    with pytest.raises(RuntimeError, match="not a multiple of 16"):
        run(draw, server, prompt="a", seed=1, width=70, height=64)
    with pytest.raises(RuntimeError, match="start one with `interlace serve`"):
        draw().draw(server="http://127.0.0.1:9", prompt="a", seed=1, width=0, height=0)
