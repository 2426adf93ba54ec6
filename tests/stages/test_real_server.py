"""Language model servers in processes of their own: transformers' own `serve`, and vLLM where there is one.

vLLM belongs into an environment of its own; `INTERLACE_TEST_VLLM_PYTHON` is the python in it.
"""

import os
import signal
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
from interlace.errors import InvalidRequestError, RequestError
from interlace.request import Output, Progress
from tests.stages.models import save_chat_model
from tests.tiny import save_tiny_flux

pytestmark = [pytest.mark.slow]
pytest.importorskip("openai")
pytest.importorskip("fastapi")
TRANSFORMERS = Path(sys.executable).parent / "transformers"
VLLM = os.environ.get("INTERLACE_TEST_VLLM_PYTHON")
TINY = SamplingParams(num_inference_steps=2, height=16, width=16)
IDEAS = [f"a {colour} {shape}" for colour in ("red", "blue", "green", "black")
         for shape in ("star", "circle", "heart", "ring")]  # fmt: skip
SERVERS = [
    pytest.param("transformers", marks=pytest.mark.skipif(not TRANSFORMERS.exists(), reason="no transformers command")),
    pytest.param("vllm", marks=pytest.mark.skipif(not VLLM, reason="INTERLACE_TEST_VLLM_PYTHON is not set")),
]


@dataclass
class Served:
    """A model behind a server."""

    process: subprocess.Popen[bytes]
    url: str
    model: str

    def kill(self) -> None:
        """At once, with its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(120)


def command_of(server: str, model: Path, port: int) -> list[str]:
    if server == "transformers":
        return [str(TRANSFORMERS), "serve", "--device", "cpu", "--dtype", "float32", "--port", str(port), str(model)]
    return [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32",
            "--max-model-len", "512", "--max-num-seqs", "16", "--enforce-eager", "--port", str(port)]  # fmt: skip


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    model = save_chat_model(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command_of(request.param, model, port), env=environment, stdout=log, stderr=log,
                                   cwd=tmp_path, start_new_session=True)  # fmt: skip
    server = Served(process, f"http://localhost:{port}", str(model))
    try:
        end = time.monotonic() + 300
        while not _answers(server.url):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.25)
        yield server
    finally:
        server.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_server_writes_what_the_model_here_writes_and_its_end_is_the_requests_error(
    served: Served, tmp_path: Path
) -> None:
    args = {"base_url": f"{served.url}/v1", "max_retries": 1, "request_timeout_s": 120}
    sampling = {"temperature": 0.0, "max_tokens": 24}
    writer = create_ar_stage_config(0, served.model, engine_args=args, default_sampling_params=sampling)
    painter = create_dit_stage_config(1, str(save_tiny_flux(tmp_path / "flux")))
    here = create_ar_stage_config(0, served.model, engine_args={"dtype": "float32"}, default_sampling_params=sampling)
    with Omni(stages=[here, painter]) as local:
        expected = [output.text for output in local.generate(IDEAS, TINY)]
    with Omni(stages=[writer, painter]) as remote:
        outputs = remote.generate(IDEAS, TINY)
        assert [output.error for output in outputs] == [None] * len(IDEAS)
        assert [output.text for output in outputs] == expected
        assert remote.generate(IDEAS[3], TINY)[0].text == expected[3], "alone as beside fifteen others"
        assert all(output.images and output.stages[0].metrics.num_tokens > 0 for output in outputs)
        streamed: list[Progress] = []
        again = remote.generate(IDEAS[0], TINY, on_progress=streamed.append)[0]
        assert "".join(event.text or "" for event in streamed if event.stage == 0) == again.text == expected[0]
        if "vllm" in str(served.process.args):
            _vllm_keeps_to_seeds_and_refuses_one_request_alone(remote)
        drawing = remote.submit({"prompt": IDEAS[1], "num_inference_steps": 400}, TINY)
        while not remote.engine.stats()["requests"]["live"] and not drawing.done():
            time.sleep(0.01)
        served.kill()
        gone: list[Output] = remote.generate(IDEAS[2:4], TINY)
        assert all(isinstance(output.error, RequestError) for output in gone)
        assert "failed 2 times" in str(gone[0].error)
        assert drawing.result(120).error is None, "what was written before the server's end is drawn"


def _vllm_keeps_to_seeds_and_refuses_one_request_alone(remote: Omni) -> None:
    seeded = [{"prompt": idea, "seed": i, "temperature": 0.9} for i, idea in enumerate(IDEAS)]
    together = remote.generate(seeded, TINY)
    assert together[7].text == remote.generate(seeded[7], TINY)[0].text
    hot, long, good = remote.generate([{"prompt": "a star", "temperature": 3.0}, "a star " * 400, IDEAS[5]], TINY)
    assert isinstance(hot.error, InvalidRequestError)
    assert "temperature must be in [0, 2]" in str(hot.error)
    assert isinstance(long.error, InvalidRequestError)
    assert "maximum context length" in str(long.error)
    assert good.error is None
