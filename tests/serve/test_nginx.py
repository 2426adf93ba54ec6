"""Behind nginx: TLS ends there, five silent seconds cut a stream off, and the server is shown under a prefix."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tls import certificate

from interlace import AsyncOmni
from serve.live import WAIT_S, Live, picture, running, until

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here; scripts/install-clients installs it")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def proxied(
    engines: tuple[AsyncOmni, AsyncOmni], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, httpx.Client, Live]]:
    """The address that nginx shows, a client that trusts its certificate, and the server behind it."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    cert, _ = certificate(folder)
    with running(*engines, stream_keep_alive_s=0.5) as live:
        text = (Path(__file__).parent / "nginx.conf").read_text()
        for name, value in (("folder", folder), ("port", port), ("upstream", live.url.removeprefix("http://"))):
            text = text.replace("{" + name + "}", str(value))
        (folder / "nginx.conf").write_text(text)
        process = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")])
        url = f"https://127.0.0.1:{port}/art"
        try:
            with httpx.Client(verify=str(cert), timeout=WAIT_S) as http:
                until(lambda: answers(http, url))
                yield url, http, live
        finally:
            process.terminate()
            process.wait(WAIT_S)


def answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/liveness").status_code == 200
    except httpx.HTTPError:
        return False


def test_streams_live_longer_than_the_proxys_patience(proxied: tuple[str, httpx.Client, Live]) -> None:
    url, http, live = proxied
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
    asked = {"size": "128x128", "num_inference_steps": 2}
    with live.paused():
        stream = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "a star"}], stream=True, extra_body=asked
        )
        time.sleep(7)  # silent, but for signs of life
    images = [image for chunk in stream for choice in chunk.choices for image in getattr(choice.delta, "images", [])]
    assert picture(images[0]["image_url"]["url"].partition(",")[2]).size == (128, 128)


def test_urls_ids_pages_and_head_are_the_proxys(proxied: tuple[str, httpx.Client, Live]) -> None:
    url, http, _ = proxied
    body = {"prompt": "a star", "size": "64x64", "num_inference_steps": 2, "response_format": "url"}
    made = http.post(f"{url}/v1/images/generations", json=body, headers={"X-Request-Id": "mine"})
    assert (made.headers["x-request-id"], made.json()["id"]) == ("mine", "mine")
    place = made.json()["data"][0]["url"]
    assert place.startswith(f"{url}/files/")
    assert http.get(place).headers["content-type"] == "image/png"
    assert http.head(place).headers["content-type"] == "image/png"
    page = http.get(f"{url}/")
    assert "static/app.js" in page.text
    assert http.get(f"{url}/static/app.js").status_code == 200
    assert http.get(f"{url}/docs").status_code == 200
    assert http.get(f"{url}/openapi.json").json()["info"]["title"] == "Interlace"
    kept = http.post(f"{url}/v1/images/generations", json={**body, "response_format": None, "async": True}).json()["id"]
    with http.stream("GET", f"{url}/v1/requests/{kept}/events") as events:
        assert "event: done" in events.read().decode()
