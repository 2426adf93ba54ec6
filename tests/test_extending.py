"""docs/extending.md: toys are one line each, and are used."""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from PIL import Image
from serve.live import running

from interlace import AsyncOmni
from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.backends.table import BACKENDS, Backend
from interlace.bulk.input.formats import READERS
from interlace.bulk.input.formats.record import Record
from interlace.bulk.input.rows import Job
from interlace.bulk.output.manifest import read_manifest
from interlace.cli.main import run
from interlace.errors import InvalidRequestError
from interlace.media.formats.table import IMAGES, ImageFormat
from interlace.models.optimize import OPTIMIZATIONS, Optimizations
from interlace.request import Output, Request, SamplingParams
from interlace.serve import app as app_module
from interlace.serve.state import lanes_of
from interlace.stages.config import HandoffConfig, create_ar_stage_config
from interlace.stages.flow.link import Link
from interlace.stages.flow.slots import Slots
from interlace.stages.handoff import Handover, resolve
from interlace.stages.opening import STAGES, open_stage
from interlace.stages.pipeline import Pipeline
from tests.tiny import save_tiny_flux


class Echo:
    """A stage that gives back what it is asked."""

    def submit(self, request: Request, listener: Any = None) -> "Future[Output]":
        done: Future[Output] = Future()
        done.set_result(Output(request_id=request.request_id, prompt=request.prompt, text=request.prompt))
        return done

    def abort(self, request_id: str) -> bool:
        return False

    def stats(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"model": "echo"}

    def close(self) -> None: ...


def shout(handover: Handover, *, mark: str = "!") -> dict[str, object]:
    return {**handover.prompt, "prompt": (handover.output.text or "").upper() + mark}


def test_a_stage_and_a_handoff_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "ar", lambda config, replica, caches: Echo())
    handoff = HandoffConfig(function="tests.test_extending:shout", options={"mark": "?"})
    configs = [create_ar_stage_config(0, "a"), create_ar_stage_config(1, "b", handoff=handoff)]
    ways = [None, resolve(handoff)]
    pipeline = Pipeline([Link(c, open_stage(c), way, Slots(2)) for c, way in zip(configs, ways, strict=True)])
    output = pipeline.submit(Request(request_id="r", prompt="a star", sampling=SamplingParams())).result(120)
    assert output.error is None
    assert output.text == "A STAR?"
    pipeline.close()


def test_an_optimisation_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="unknown optimization"):
        Optimizations(names=("my_way",))
    monkeypatch.setitem(OPTIMIZATIONS, "my_way", lambda pipeline: setattr(pipeline, "mine", True))
    pipeline = SimpleNamespace()
    Optimizations(names=("my_way",)).apply(pipeline)  # type: ignore[arg-type]
    assert pipeline.mine


class Painter:
    """A service that makes pictures of one colour, named by the prompt."""

    def __init__(self, model: str, *, extras: bool) -> None:
        self.model = model

    def arguments(self, job: Job) -> dict[str, Any]:
        return {"width": job.sampling.width or 8, "height": job.sampling.height or 8}

    def connect(self, endpoint: Endpoint) -> "Painter":
        return self

    def ask(
        self, prompt: str, arguments: Mapping[str, Any], pictures: Sequence[Image.Image], timeout_s: float
    ) -> Image.Image:
        return Image.new("RGB", (arguments["width"], arguments["height"]), prompt)

    def close(self) -> None: ...


def bmp(image: Image.Image, record: Mapping[str, Any], quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def read_slashes(path: Path) -> Iterator[Record]:
    for number, prompt in enumerate(path.read_text().split("/")):
        yield Record(f"{path}:{number}", {"prompt": prompt})


def test_a_service_an_input_and_an_image_format_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "rows.slashes", tmp_path / "out"
    rows.write_text("red/blue")
    command = ["t2i", str(rows), "--backend", "painter", "--output-format", "bmp", "--width", "12", "-o", str(out)]
    monkeypatch.setitem(READERS, ".slashes", read_slashes)
    assert run(command) == 2, "neither the service nor the format is there"
    monkeypatch.setitem(BACKENDS, "painter", Backend(service="tests.test_extending:Painter"))
    assert run(command) == 2
    assert "the output format is 'bmp'; expected one of png, jpeg, webp" in capsys.readouterr().err
    monkeypatch.setitem(IMAGES, "bmp", ImageFormat("bmp", "image/bmp", bmp))
    assert run(command) == 0, capsys.readouterr().err
    pictures = [Image.open(out / record["file"]) for record in sorted(read_manifest(out), key=lambda r: r["id"])]
    assert [(one.format, one.size, one.getpixel((0, 0))) for one in pictures] == [
        ("BMP", (12, 8), (255, 0, 0)),
        ("BMP", (12, 8), (0, 0, 255)),
    ]


router = APIRouter()


@router.get("/v1/echo/{word}")
async def echo(request: HttpRequest, word: str) -> dict[str, Any]:
    return {"word": word, "models": lanes_of(request).names}


def test_an_endpoint_and_a_format_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_flux(tmp_path)
    monkeypatch.setattr(app_module, "ENDPOINTS", [*app_module.ENDPOINTS, sys.modules[__name__]])
    monkeypatch.setitem(IMAGES, "bmp", ImageFormat("bmp", "image/bmp", bmp))
    omni = AsyncOmni(tmp_path)
    with running(omni) as live, live.http() as http:
        assert http.get("/v1/echo/hello").json() == {"word": "hello", "models": [str(tmp_path)]}
        assert "/v1/echo/{word}" in http.get("/openapi.json").json()["paths"]
        assert "did you mean /v1/echo/{word}" in http.get("/v1/ecko/hello").text
        asked = {"prompt": "a", "size": "16x16", "num_inference_steps": 1, "output_format": "bmp"}
        answer = http.post("/v1/images/generations", json={**asked, "response_format": "file"})
        assert answer.headers["content-type"] == "image/bmp", answer.text
        assert Image.open(io.BytesIO(answer.content)).format == "BMP"
    omni.omni.close()
