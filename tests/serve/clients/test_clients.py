"""Real clients, each in its own environment, against a real server: every one gets its pictures, drawn once each."""

from collections.abc import Iterator
from typing import Any

import pytest

from interlace import AsyncOmni
from serve.clients.programs import needs_node, needs_python, run_node, run_python
from serve.live import Live, picture, running, until


@pytest.fixture(scope="module")
def live(engines: tuple[AsyncOmni, AsyncOmni]) -> Iterator[Live]:
    with running(*engines, model_alias=("dall-e-3",), size_policy="nearest", warmup=True) as server:
        with server.http() as http:
            until(lambda: http.get("/health").status_code == 200)
        yield server


def drawn(live: Live) -> int:
    return int(live.state.metrics.images._value.get())


def check(found: dict[str, Any], *names: str, size: tuple[int, int] = (64, 64)) -> None:
    for name in names:
        assert picture(found[name]).size == size, name


@needs_node
def test_openai_for_node(live: Live) -> None:
    before = drawn(live)
    found = run_node("openai_client.cjs", live.url)
    check(found, "image", "chat", "stream", "edited", "response")
    assert found["content"] is None
    assert found["edited"] != found["chat"]
    partial = "image_generation.partial_image"
    assert found["kinds"] == [partial, partial, "image_generation.completed"]
    assert drawn(live) - before == 6


@needs_node
def test_the_ai_sdk_with_three_providers(live: Live) -> None:
    before = drawn(live)
    found = run_node("ai_sdk.cjs", live.url)
    check(found, "openaiImage", "compatibleImage", "routedImage", "routed", "routedStream", "compatible")
    check(found, "response", "old", size=(128, 128))
    assert found["text"] == ""
    assert drawn(live) - before == 8


@needs_python
def test_litellm(live: Live) -> None:
    before = drawn(live)
    found = run_python("litellm_client.py", live.url)
    check(found, "chat", "stream", "image")
    assert (found["content"], found["num_images"]) == (None, 1)
    assert drawn(live) - before == 3


@needs_python
def test_litellms_proxy(live: Live) -> None:
    before = drawn(live)
    found = run_python("litellm_proxy.py", live.url)
    check(found, "chat", "stream", "image")
    assert drawn(live) - before == 3


@needs_python
def test_langchain(live: Live) -> None:
    before = drawn(live)
    found = run_python("langchain_client.py", live.url)
    check(found, "response", "edited")
    assert found["response"] != found["edited"]
    assert found["content"] == ""
    assert found["url"].startswith(f"{live.url}/files/")
    check(found, "dalle", size=(192, 192))
    assert drawn(live) - before == 4
