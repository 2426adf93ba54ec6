"""Every `interlace serve` line of README and docs that one process can follow starts a server that says it is ready.

The hub's models have stand-ins; the code of docs/omni.md and the benches that ask a server run against what they start.
"""

import asyncio
import re
import runpy
import shlex
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from PIL import Image

import interlace.cli.main
import interlace.serve.http.run as runner
from interlace.demo import MODELS
from interlace.serve.settings import ServeSettings
from serve.live import WAIT_S, Live, until
from tests.stages.omni_models import save_qwen2_5_omni
from tests.test_words import PAGES, blocks

OMNI = "Qwen/Qwen2.5-Omni-7B"
# Of several processes, or of models that have no stand-in here; with tests of their own.
_ELSEWHERE = re.compile(r"torchrun|--replicas|--num-gpus|org/sd15")
_LINES = sorted(
    {
        line.partition("#")[0].strip()
        for page in PAGES
        for kind, _, text in blocks(page)
        for line in (text.splitlines() if kind in ("bash", "sh") and page.stem != "cli" else ())
        if line.startswith("interlace serve") and not _ELSEWHERE.search(line)
    }
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the lines name."""
    monkeypatch.chdir(tmp_path)
    for name in ("my-sdxl", "flux"):
        Path(name).symlink_to(MODELS["demo"].path, target_is_directory=True)
    Path("adapters").mkdir()
    Path("keys.txt").write_text("sesame\n")
    for page in PAGES:
        for kind, name, text in blocks(page):
            name = name or ("models.yaml" if text.startswith("# models.yaml") else "")
            if kind == "yaml" and name:
                Path(name).write_text(text)
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs a `serve` line; when the server is ready, calls what it is given with its address, and stops it."""

    def follow(line: str, then: Callable[[str], None] = lambda url: None) -> list[str]:
        asked: list[str] = []

        def serve(app: FastAPI, settings: ServeSettings, sock: socket.socket) -> None:
            server = runner.make_server(app, settings)
            thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
            thread.start()
            try:
                url = until(lambda: server.url)
                until(lambda: httpx.get(f"{url}/health", timeout=WAIT_S).status_code == 200, 240)
                asked.append(url)
                then(url)
            finally:
                server.should_exit = True
                thread.join(WAIT_S)

        monkeypatch.setattr(runner, "serve", serve)
        monkeypatch.setenv("INTERLACE_WARMUP", "false")
        words = re.sub(r"--port \d+", "", re.sub(r"black-forest-labs/\S+|Wan-AI/\S+", "./flux", line)).split()
        assert interlace.cli.main.run([*words[1:], "--port", "0"]) == 0, line
        return asked

    return follow


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in _LINES if OMNI not in line])
def test_a_line_starts_a_server(line: str, place: Path, served: Callable[..., list[str]]) -> None:
    assert len(served(line)) == 1


@pytest.mark.slow
def test_an_omni_modal_model_answers_as_the_page_says(place: Path, served: Callable[..., list[str]]) -> None:
    (line,) = [line for line in _LINES if OMNI in line]
    folder = str(save_qwen2_5_omni(place / "omni"))
    Image.new("RGB", (56, 56), "red").save("in.png")
    soundfile.write("question.wav", np.sin(np.arange(8000) / 9), 16000)
    Path("questions.jsonl").write_text('{"prompt": "what is it", "image": "in.png"}\n{"prompt": "say it"}\n')
    short = {  # the stand-in has random weights and would speak on
        OMNI: folder,
        'modalities=["text"': 'max_tokens=8, extra_body={"speech": {"max_tokens": 16}}, modalities=["text"',
        '"voice": "Ethan",\n': '"voice": "Ethan", "max_tokens": 8, "speech": {"max_tokens": 16},\n',
        '"multi_modal_data": {"image"': '"max_tokens": 8, "multi_modal_data": {"image"',
    }
    page = next(page for page in PAGES if page.stem == "omni")
    client, python = [_replaced(text, short) for kind, _, text in blocks(page) if kind == "python" and OMNI in text]

    def ask(url: str) -> None:
        Path("client.py").write_text(client.replace("http://127.0.0.1:8000", url))
        runpy.run_path("client.py")
        assert soundfile.info("hello.wav").frames > 0

    served(line.replace(OMNI, folder), ask)
    Path("block.py").write_text(python)
    outputs = runpy.run_path("block.py", {"picture": Image.open("in.png")})["outputs"]
    assert [output.error for output in outputs] == [None, None]
    bash = "".join(text for kind, _, text in blocks(page) if kind == "bash").splitlines()
    for answer in (one for one in bash if one.startswith("interlace answer")):
        words = shlex.split(answer.replace(OMNI, folder))[1:]
        assert interlace.cli.main.run([*words, "--max-tokens", "8", "--max-speech-tokens", "16"]) == 0
    assert {path.suffix for path in [*Path("written").iterdir(), *Path("spoken").iterdir()]} >= {".txt", ".wav"}


@pytest.mark.slow
def test_the_operators_benches_run(server: Live, capsys: pytest.CaptureFixture[str]) -> None:
    page = next(page for page in PAGES if page.stem == "operator")
    lines = [line for _, _, text in blocks(page) for line in text.splitlines() if line.startswith("interlace bench")]
    assert len(lines) == 2
    for line in lines:
        few = {"http://127.0.0.1:8000": server.url, "--rate 2 --num-requests 64": "--num-requests 2 --mix 64x64/2"}
        assert interlace.cli.main.run(shlex.split(_replaced(line, few))[1:]) == 0, line
        assert capsys.readouterr().out.strip().splitlines()[-1].startswith("{")


def _replaced(text: str, said: dict[str, str]) -> str:
    for one, other in said.items():
        text = text.replace(one, other)
    return text
