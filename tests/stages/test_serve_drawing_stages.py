"""The HTTP server where one stage draws and the next edits: whose a request's fields are, and the prompt cache."""

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")

from serve.live import Live, b64, picture, png, running

from interlace import AsyncOmni, create_dit_stage_config

SMALL = {"size": "64x64", "seed": 5, "num_inference_steps": 2}
CACHE = {"prompt_cache_bytes": 1_000_000}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    stages = [
        create_dit_stage_config(0, "demo", engine_args=CACHE, dit_config={"num_inference_steps": 3}),
        create_dit_stage_config(1, "demo-edit", engine_args=CACHE),
    ]
    omni = AsyncOmni(stages=stages)
    with running(omni, warmup=True) as server:
        yield server
    omni.omni.close()


def test_a_first_picture_goes_through_all_stages(live: Live) -> None:
    until = time.monotonic() + 120
    with live.http() as http:
        while http.get("/health").status_code != 200:
            assert time.monotonic() < until, live.state.broken
            time.sleep(0.05)


def test_an_images_fields_are_the_last_stages_and_its_size_is_everyones(live: Live) -> None:
    with live.http() as http:
        answer = http.post("/v1/images/generations", json={"prompt": "a red circle", **SMALL}).json()
    assert picture(answer["data"][0]["b64_json"]).size == (64, 64)
    assert answer["timings"]["num_steps"] == 3 + 2


def test_stage_args_may_hold_an_instruction_for_the_stage_that_edits(live: Live) -> None:
    common = {"width": 64, "height": 64, "seed": 5, "num_inference_steps": 2}
    with live.http() as http:
        usual, own = (
            http.post("/generate", json={"stage_args": [{"prompt": "a red circle"}, last]}).json()["outputs"][0]
            for last in (common, {**common, "prompt": "make the circle green"})
        )
    assert usual["prompt"] == own["prompt"] == "a red circle"
    assert usual["images"][0]["b64_json"] != own["images"][0]["b64_json"]


def test_pictures_are_refused_where_the_first_stage_takes_none(live: Live) -> None:
    body = {"prompt": "make it red", "images": [{"image_url": "data:image/png;base64," + b64(png())}], **SMALL}
    with live.http() as http:
        refused = http.post("/v1/images/edits", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "edits_not_served"


def test_equal_prompts_are_encoded_once_for_all_stages(live: Live) -> None:
    """Both stages run the same text encoders: what one has encoded, the other finds."""
    caches = live.state.lanes.draw.omni.prompt_caches
    with live.http() as http:
        for prompt in ("a red circle", "two blue stars"):
            before = caches.statistics()[0]
            assert http.post("/v1/images/generations", json={"prompt": prompt, **SMALL}).status_code == 200
        after = caches.statistics()[0]
        metrics = http.get("/metrics").text
        info = http.get("/info").json()
    assert len(caches.statistics()) == 1
    assert after.misses - before.misses == 2, "a prompt for each of two encoders; the empty one is known"
    assert after.hits - before.hits == 6
    assert f'interlace:prompt_cache_total{{model="demo-edit",outcome="hits"}} {after.hits}.0' in metrics
    assert [stage["prompt_cache"]["hits"] for stage in info["stages"]] == [after.hits] * 2
