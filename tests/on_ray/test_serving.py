"""The server under Ray Serve: a real client, streams, disconnects, more and fewer replicas, an update under load."""

import base64
import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops

from interlace.demo import MODELS
from interlace.errors import InvalidRequestError
from interlace.ray.serving.scaling import Autoscaling, Backlog, replicas_for
from interlace.request import Progress

WAIT_S = 240
ENDLESS = 100_000  # steps: nobody waits for the end of such a request
SCALING = Autoscaling(
    max_replicas=2, target_queue_s=2.0, upscale_delay_s=0.5, downscale_delay_s=1.0, metrics_interval_s=0.5
)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def deploy(other: str) -> None:
    """The built-in model, and the same under another name."""
    from ray import serve

    import interlace.ray

    settings = {"drain_s": 120.0, "result_ttl": 600.0, "max_steps": ENDLESS}
    app = interlace.ray.app(model="demo", models=[other], autoscaling=SCALING, max_num_seqs=4, settings=settings)
    serve.run(app)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(shutil.copytree(MODELS["demo"].path, tmp_path_factory.mktemp("models") / "other"))


@pytest.fixture(scope="module")
def url(ray_here: Any, other: str) -> Iterator[str]:
    """One application."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy(other)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def running_engines() -> int:
    from ray import serve

    states = serve.status().applications["default"].deployments["Engines"].replica_states
    return int(states.get("RUNNING", 0))


def picture(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_a_real_client_gets_pictures_and_streams(url: str, other: str) -> None:
    import openai

    wait_until(lambda: httpx.get(f"{url}/health", timeout=WAIT_S).status_code == 200)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=WAIT_S, max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo", other]
    body = {"num_inference_steps": 3, "seed": 7}
    made = client.images.generate(prompt="a red circle", size="64x64", n=2, extra_body=body)
    assert [picture(one.b64_json).size for one in made.data] == [(64, 64)] * 2
    same = client.images.generate(model=other, prompt="a red circle", size="64x64", extra_body=body)
    apart = ImageChops.difference(*(picture(one.data[0].b64_json).convert("RGB") for one in (same, made)))
    assert max(high for _, high in apart.getextrema()) <= 1
    body["num_inference_steps"] = 12  # a picture of the way has time to come before the last one
    events = client.images.generate(prompt="a red circle", size="64x64", stream=True, partial_images=1, extra_body=body)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed"
    assert "image_generation.partial_image" in kinds
    with pytest.raises(openai.BadRequestError, match="width"):
        client.images.generate(prompt="a red circle", size="63x64")


def test_a_client_that_leaves_aborts_its_request(url: str) -> None:
    from ray import serve

    engines = serve.get_deployment_handle("Engines", "default")
    body = {"prompt": "a red circle", "size": "128x128", "num_inference_steps": ENDLESS, "stream": True,
            "partial_images": 3}  # fmt: skip
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=WAIT_S) as answer:
        assert answer.status_code == 200
        wait_until(lambda: engines.left.remote().result() > 0)
    wait_until(lambda: "interlace:abort_total 1.0" in httpx.get(f"{url}/metrics", timeout=WAIT_S).text)
    wait_until(lambda: engines.left.remote().result() == 0)
    wait_until(lambda: httpx.get(f"{url}/v1/requests", timeout=WAIT_S).json()["data"] == [])


def test_replicas_come_with_load_and_go_after_it_and_an_update_loses_nothing(url: str, other: str) -> None:
    wait_until(lambda: running_engines() == 1)  # again, after other tests
    stop, answers = threading.Event(), []

    def ask(number: int) -> None:
        while not stop.is_set():
            body = {"prompt": f"a blue star {number}", "size": "64x64", "num_inference_steps": 30}
            answers.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=WAIT_S))

    with ThreadPoolExecutor(12) as clients:
        asking = [clients.submit(ask, number) for number in range(12)]
        try:
            wait_until(lambda: running_engines() == 2)
            before = len(answers)
            deploy(other)
            wait_until(lambda: len(answers) > before + 12)
        finally:
            stop.set()
        for one in asking:
            one.result(WAIT_S)
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert all(picture(answer.json()["data"][0]["b64_json"]).size == (64, 64) for answer in answers)
    wait_until(lambda: running_engines() == 1)


def test_replicas_are_as_many_as_the_predicted_seconds_ask_for() -> None:
    assert replicas_for([], 0, 0, 30) == 1
    assert replicas_for([20], 4, 0, 30) == 1
    assert replicas_for([20, 45], 8, 0, 30) == 3
    assert replicas_for([20], 4, 8, 30) == 2


def test_a_backlog_is_told_in_seconds_of_the_measured_speed() -> None:
    backlog = Backlog()
    backlog.began("a", 10, now=0)
    assert backlog.seconds == 0  # nobody knows yet
    backlog.progressed(Progress(request_id="a", step=2, num_steps=4), now=5)
    assert backlog.seconds == 5
    backlog.began("b", 20, now=5)
    assert backlog.seconds == 25
    backlog.ended("a", 10, ok=True)
    assert backlog.seconds == 20
    backlog.ended("b", 11, ok=False)
    assert backlog.seconds == 0


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="expected it to be no less"):
        Autoscaling(min_replicas=3, max_replicas=2)
