"""The command itself, in a process of its own: what it prints, how it drains, how it answers while it does."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

LONG = {"prompt": "a star", "size": "128x128", "num_inference_steps": 30}
WAIT_S = 120.0  # for what comes at once, unless the machine is busy


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, timeout=WAIT_S, **options)


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, timeout=WAIT_S, **options)


class Process:
    """`interlace serve` as a user starts it."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "interlace", "serve", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors: list[str] = []
        self.reading = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reading.start()
        line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, self.errors)
        self.url = found[1]
        while get(f"{self.url}/health").status_code != 200:
            time.sleep(0.1)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@pytest.fixture
def process() -> Iterator[Process]:
    started = Process("--drain-s", "600", "--omni", "--api-key", "secret-key")
    yield started
    started.process.kill()


def test_sigterm_loses_no_accepted_request(process: Process) -> None:
    headers = {"Authorization": "Bearer secret-key"}
    answers: dict[str, httpx.Response] = {}

    def ask(name: str, body: dict) -> None:
        url, named = f"{process.url}/v1/images/generations", {**headers, "X-Request-Id": name}
        answers[name] = post(url, json={**LONG, **body}, headers=named)

    threads = [threading.Thread(target=ask, args=(f"r{i}", {"seed": i})) for i in range(4)]
    for thread in threads:
        thread.start()
    job = post(f"{process.url}/v1/images/generations", json={**LONG, "async": True}, headers=headers).json()
    while len(get(f"{process.url}/v1/requests?status=all", headers=headers).json()["data"]) < 5:
        time.sleep(0.05)
    process.process.send_signal(signal.SIGTERM)
    while get(f"{process.url}/health").status_code != 503:
        time.sleep(0.02)
    late = post(f"{process.url}/v1/images/generations", json=LONG, headers=headers)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
    assert int(late.headers["retry-after"]) >= 1
    path = f"{process.url}/v1/requests/{job['id']}"
    while get(path, headers=headers).json()["status"] != "completed":
        time.sleep(0.1)
    assert get(f"{path}/content", headers=headers).content[:4] == b"\x89PNG"
    for thread in threads:
        thread.join(WAIT_S)
    assert [answers[f"r{i}"].status_code for i in range(4)] == [200] * 4
    assert process.process.wait(WAIT_S) == 0
    process.reading.join(WAIT_S)
    log = "".join(process.errors)
    assert '"id": "r0"' in log
    assert "secret-key" not in log
    assert "a star" not in log
    assert "Traceback" not in log


def test_the_command_refuses_what_makes_no_sense() -> None:
    environment = {**os.environ, "INTERLACE_PORT": "99999"}
    command = [sys.executable, "-m", "interlace", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 2
    assert "port is 99999" in done.stderr


def test_a_port_in_use_is_said_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "interlace", "serve", "no/such-model", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
