"""Threads: beside the engine's, no thread of the process holds a team of OpenMP's. Each count in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interlace.engine.threads import num_teams

if num_teams() is None:
    pytest.skip("torch runs on another OpenMP runtime, or the kernel tells nothing", allow_module_level=True)

_COUNT = """
import threading
import time
import torch
from interlace.engine.threads import num_teams, release_team

def tell(*counts):
    print("told", *counts, flush=True)

def teams(wanted):
    # How many there are, once those that go are gone and those that come sleep: on a busy machine not at once.
    end = time.monotonic() + 120
    time.sleep(0.05)
    while num_teams() != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return num_teams()

def work():
    square = torch.randn(1500, 1500)
    return torch.nn.functional.layer_norm(square @ square + square, (1500,))

class Watch:
    # Looks every few milliseconds; `most` is the largest number of teams that it saw.
    def __enter__(self):
        self.most, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.over.wait(0.01):
            self.most = max(self.most, num_teams())

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()
"""


def counted(script: str, *words: str) -> list[str]:
    """What `script` told, with two threads to a team, who sleep at once: a busy machine is no matter then."""
    path = os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "tests"), *sys.path])
    environ = {**os.environ, "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT + script, *words], env=environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [word for line in done.stdout.splitlines() if line.startswith("told ") for word in line.split()[1:]]


def test_a_team_is_given_back_and_made_again_and_those_who_run_alone_have_none() -> None:
    script = """
from interlace.engine.threads import run_alone

def run(start):
    start()
    work()
    tell(teams(wanted))

tell(teams(0))
work()
tell(teams(1))
release_team()
tell(teams(0))
work()
for start, wanted in ((run_alone, 1), (lambda: None, 2)):
    thread = threading.Thread(target=run, args=(start,))
    thread.start()
    thread.join()
tell(teams(1), torch.get_num_threads())
"""
    assert counted(script) == ["0", "1", "0", "1", "2", "1", "2"]


def test_a_pipeline_that_its_owner_used_and_two_engines_in_turn_make_one_team() -> None:
    script = """
from interlace import Engine
from interlace.models.loader import load_model
pipeline = load_model("demo").pipeline
tell(teams(0))
small = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
pipeline("a blue star", **small)
tell(teams(1))
with Engine(pipeline) as engine, Engine(load_model("demo").pipeline) as other:
    for one in (engine, other):
        with Watch() as watch:
            one.map([{"prompt": "a blue star", **small} for n in range(8)])
        tell(watch.most)
        tell(teams(0))
"""
    assert counted(script) == ["0", "1", "1", "0", "1", "0"]


def test_after_32_requests_through_omni_serve_and_t2i_only_the_engines_thread_had_a_team(tmp_path: Path) -> None:
    """Previews, pictures made by workers, a server's threads, files written by others."""
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from interlace import AsyncOmni
from interlace.cli.main import run
from serve.live import running

small = {"height": 64, "width": 64, "num_inference_steps": 2}
omni = AsyncOmni("demo", max_num_seqs=8)
with Watch() as watch:
    made = [omni.omni.submit({"prompt": f"a red circle {n}", **small}, on_progress=lambda told: None, preview_every=1)
            for n in range(32)]
    assert all(one.result().images for one in made)
tell(watch.most)
with running(omni) as live, live.http() as http, ThreadPoolExecutor(8) as clients, Watch() as watch:
    def ask(n):
        body = {"prompt": f"a blue star {n}", "size": "64x64", "num_inference_steps": 2}
        return http.post("/v1/images/generations", json=body).status_code
    assert set(clients.map(ask, range(32))) == {200}
tell(watch.most)
omni.omni.close()
tell(teams(0))
with Watch() as watch:
    prompts = [f"a green ring {n}" for n in range(32)]
    size = ["--height", "64", "--width", "64", "--num-inference-steps", "2"]
    assert run(["t2i", "--prompt", *prompts, *size, "--output-dir", sys.argv[1]]) == 0
tell(watch.most)
"""
    assert counted(script, str(tmp_path / "out")) == ["1", "1", "0", "1"]
