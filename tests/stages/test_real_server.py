"""A language model server in a process of its own: transformers' own `serve`, with the built-in language model."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from interlace import Omni, SamplingParams, create_ar_stage_config, create_dit_stage_config
from interlace.demo import MODELS
from interlace.errors import RequestError
from interlace.request import Output, Progress
from tests.tiny import save_tiny_flux

pytestmark = [pytest.mark.slow]
pytest.importorskip("openai")
pytest.importorskip("fastapi")
COMMAND = Path(sys.executable).parent / "transformers"
TINY = SamplingParams(num_inference_steps=2, height=16, width=16)
IDEAS = ["a star", "something round and red", "two circles", "a blue square", "a heart", "a ring on black"]


@dataclass
class Served:
    """A model behind a server."""

    process: subprocess.Popen[bytes]
    url: str
    model: str


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    model = tmp_path / "chatty"
    shutil.copytree(MODELS["demo-expand"].path, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }} {% endfor %}<eos>"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [COMMAND, "serve", "--device", "cpu", "--dtype", "float32", "--port", str(port), str(model)]
    log = (tmp_path / "log").open("wb")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://localhost:{port}"
    try:
        end = time.monotonic() + 120
        while not _answers(url):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.25)
        yield Served(process, url, str(model))
    finally:
        process.kill()
        process.wait(20)
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.skipif(not COMMAND.exists(), reason="transformers' command line is not installed")
def test_a_server_writes_what_the_model_here_writes_and_its_end_is_the_requests_error(
    served: Served, tmp_path: Path
) -> None:
    flux = save_tiny_flux(tmp_path / "flux")
    args = {"base_url": f"{served.url}/v1", "max_retries": 1, "request_timeout_s": 30}
    sampling = {"temperature": 0.0, "max_tokens": 32}
    writer = create_ar_stage_config(0, served.model, engine_args=args, default_sampling_params=sampling)
    painter = create_dit_stage_config(1, str(flux))
    here = create_ar_stage_config(0, served.model, engine_args={"dtype": "float32"}, default_sampling_params=sampling)
    with Omni(stages=[here, painter]) as local, Omni(stages=[writer, painter]) as remote:
        expected = [output.text for output in local.generate(IDEAS, TINY)]
        outputs = remote.generate(IDEAS, TINY)
        assert [output.error for output in outputs] == [None] * len(IDEAS)
        assert [output.text for output in outputs] == expected
        assert all(output.images and output.stages[0].metrics.num_tokens > 3 for output in outputs)
        streamed: list[Progress] = []
        again = remote.generate(IDEAS[0], TINY, on_progress=streamed.append)[0]
        assert "".join(event.text or "" for event in streamed if event.stage == 0) == again.text == expected[0]
        drawing = remote.submit({"prompt": IDEAS[1], "num_inference_steps": 400}, TINY)
        while not remote.engine.stats()["requests"]["live"]:
            assert not drawing.done()
        served.process.kill()
        gone: Output = remote.generate(IDEAS[2], TINY)[0]
        assert isinstance(gone.error, RequestError)
        assert "failed 2 times" in str(gone.error)
        assert drawing.result(60).error is None, "what was written before the server's end is drawn"
