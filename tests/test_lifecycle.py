"""Requests and engines from beginning to end: cancelled, raced, forked, interrupted, left running."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.errors import EngineClosedError, EngineDeadError, InterlaceError, InvalidRequestError
from tests.tiny import tiny_flux

FOREVER = 100_000


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    built = tiny_flux()
    built.set_progress_bar_config(disable=True)
    return built


def request(seed: int = 0, steps: int = 2, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    size = {"height": 16, "width": 16, "num_inference_steps": steps, "max_sequence_length": 16}
    return {"prompt": f"number {seed}", "output_type": "np", "generator": generator, **size, **more}


def wait_until(condition: Any) -> None:
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def test_cancelling_a_future_aborts_its_request_and_frees_the_id_once_it_has_ended(pipeline: FluxPipeline) -> None:
    with Engine(pipeline, max_num_seqs=1) as engine:
        started = threading.Event()
        first = engine.submit(request(steps=FOREVER), request_id="x", on_step=lambda *_: started.set())
        assert started.wait(120)
        assert first.cancel()
        with pytest.raises(CancelledError):
            first.result(1)
        wait_until(lambda: engine.stats()["requests"]["live"] == 0)
        second = engine.submit(request(1), request_id="x")
        assert second.result(120).images.shape == (1, 16, 16, 3)
        assert not second.cancel(), "it is done"
        assert engine.stats()["requests"]["aborted"] == 1


def test_an_id_is_in_use_until_its_cancelled_request_has_really_ended(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as engine:
        held, go = threading.Event(), threading.Event()

        def hold(step: int, num_steps: int, latents: Any) -> None:
            held.set()
            go.wait(120)

        first = engine.submit(request(steps=50), request_id="x", on_step=hold)
        assert held.wait(120)
        first.cancel()
        with pytest.raises(InvalidRequestError, match="already in use"):
            engine.submit(request(1), request_id="x")
        go.set()


def test_asyncios_wait_for_aborts_what_takes_too_long(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as engine:

        async def impatient() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(engine.submit(request(steps=FOREVER))), 0.2)

        asyncio.run(impatient())
        wait_until(lambda: engine.stats()["requests"]["live"] == 0)
        assert not isinstance(engine.map([request()])[0], BaseException)


def test_submissions_that_race_a_close_end_or_are_refused(pipeline: FluxPipeline) -> None:
    futures: list[Future[Any]] = []

    def submit(engine: Engine) -> None:
        try:
            while True:
                futures.append(engine.submit(request(steps=1)))
        except EngineClosedError:
            pass

    for pause in (0.0, 0.002, 0.01):
        engine = Engine(pipeline, max_num_seqs=2)
        threads = [threading.Thread(target=submit, args=(engine,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(pause)
        engine.close()
        for thread in threads:
            thread.join(120)
    assert all(future.done() for future in futures)


def test_waiting_for_the_engine_in_its_own_thread_is_refused_with_words(pipeline: FluxPipeline) -> None:
    said: list[BaseException] = []
    with Engine(pipeline) as engine:

        def impossible(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            engine.map([request()])
            return {}

        result = engine.map([request(callback_on_step_end=impossible)])[0]
        assert isinstance(result, InterlaceError)
        assert "use submit()" in str(result)

        def close_there(future: Future[Any]) -> None:
            try:
                engine.close()
            except InterlaceError as error:
                said.append(error)

        with engine.paused():  # it isn't done before it has its callback, which would be called here
            future = engine.submit(request(steps=20))
            future.add_done_callback(close_there)
        future.result(120)
        wait_until(lambda: said)
        assert "close() was called in the engine's own thread" in str(said[0])


def test_things_that_cannot_be_copied_and_outputs_that_hold_themselves_harm_nobody(pipeline: FluxPipeline) -> None:
    class Loop(FluxPipeline):
        def __call__(self, **kwargs: Any) -> Any:
            output = super().__call__(**kwargs)
            output.itself = output
            return output

    looping = Loop(**pipeline.components)
    looping.lock, looping.file = threading.Lock(), sys.stderr  # type: ignore[attr-defined]
    with Engine(looping) as engine:
        result = engine.map([request()])[0]
        assert result.itself is result


def test_in_a_forked_child_the_engine_says_that_it_is_not_there(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as engine:
        engine.map([request()])
        child = os.fork()
        if child == 0:
            try:
                engine.submit(request())
            except EngineDeadError:
                os._exit(7)
            os._exit(1)
        for _ in range(2400):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(status) == 7
        assert not isinstance(engine.map([request()])[0], BaseException), "the parent's goes on"


_SCRIPT = """
import signal, sys, threading
from interlace import Engine
from tests.test_lifecycle import FOREVER, request, tiny_flux
engine = Engine(tiny_flux())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
started = threading.Event()
engine.submit(request(steps=FOREVER), on_step=lambda *_: started.set())
assert started.wait(120)
print("running", flush=True)
"""


def run_script(last: str, *, interrupt: bool = False) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT + last], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    if interrupt:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def test_a_process_that_ends_while_requests_run_ends_well() -> None:
    ended = run_script("sys.exit(3)")
    assert ended.returncode == 3, ended.stderr


def test_an_interrupt_in_map_is_a_keyboard_interrupt() -> None:
    ended = run_script("engine.map([request(steps=FOREVER)])", interrupt=True)
    assert "KeyboardInterrupt" in ended.stderr
    assert ended.returncode in (130, -signal.SIGINT), ended.stderr
