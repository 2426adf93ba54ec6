"""Open WebUI itself in front of a server, with both of its image engines that speak to one.

It is 3 GB of packages, so it is not installed by `make test`: `INTERLACE_TEST_OPEN_WEBUI` names its command, in an
environment of its own (`python -m venv w && w/bin/pip install open-webui` -> `w/bin/open-webui`).
"""

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from serve.live import Live, until

COMMAND = os.environ.get("INTERLACE_TEST_OPEN_WEBUI")
pytestmark = pytest.mark.skipif(not COMMAND, reason="INTERLACE_TEST_OPEN_WEBUI is not set")
START_S = 600


@pytest.fixture(scope="module")
def webui(server: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Its API, signed in."""
    data = tmp_path_factory.mktemp("webui")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        "DATA_DIR": str(data),
        "HF_HUB_OFFLINE": "1",
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "x",
        "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": "none",
        "ENABLE_IMAGE_GENERATION": "True",
        "IMAGE_GENERATION_ENGINE": "openai",
        "IMAGES_OPENAI_API_BASE_URL": f"{server.url}/v1",
        "IMAGES_OPENAI_API_KEY": "none",
        "IMAGE_GENERATION_MODEL": "demo",
        "IMAGE_SIZE": "64x64",
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (data / "log").open("wb") as log:
        command = [str(COMMAND), "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, env={**kept, **told}, cwd=data, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            until(lambda: process.poll() is not None or _is_up(http), START_S)
            assert process.poll() is None, (data / "log").read_text()[-3000:]
            token = http.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
            http.headers["Authorization"] = f"Bearer {token}"
            yield http
    finally:
        process.terminate()
        process.wait(60)


def _is_up(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_both_of_its_image_engines_draw(webui: httpx.Client, server: Live, tmp_path: Path) -> None:
    settings = webui.get("/api/v1/images/config").json()
    for engine in ("openai", "automatic1111"):
        own = {"IMAGE_GENERATION_ENGINE": engine, "AUTOMATIC1111_BASE_URL": server.url, "IMAGE_STEPS": 2}
        webui.post("/api/v1/images/config/update", json={**settings, **own}).raise_for_status()
        made = webui.post("/api/v1/images/generations", json={"prompt": "a red circle", "n": 1})
        assert made.status_code == 200, made.text
        picture = webui.get(made.json()[0]["url"])
        assert Image.open(io.BytesIO(picture.content)).size == (64, 64)


def test_its_chat_gets_the_picture(webui: httpx.Client) -> None:
    assert "demo" in [one["id"] for one in webui.get("/api/models").json()["data"]]
    body = {"model": "demo", "messages": [{"role": "user", "content": "a red circle"}]}
    answer = webui.post("/api/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["images"][0]["image_url"]["url"].startswith("data:image/png;base64,")
