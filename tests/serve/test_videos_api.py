"""/v1/videos with a tiny video model, asked by OpenAI's own client."""

import io
from collections.abc import Iterator

import openai
import pytest
from PIL import Image
from zoo.video import _wan

from interlace import AsyncOmni
from interlace.models.loader import LoadedModel
from serve.live import Live, running

DEFAULTS = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    omni = AsyncOmni(LoadedModel("tiny-wan", _wan(), DEFAULTS))
    with running(omni) as server:
        yield server
    omni.omni.close()


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def test_a_video_is_made_polled_downloaded_and_deleted(client: openai.OpenAI) -> None:
    video = client.videos.create_and_poll(model="tiny-wan", prompt="a cat", poll_interval_ms=50)
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    film = Image.open(io.BytesIO(client.videos.download_content(video.id).read()))
    assert (film.n_frames, film.size) == (9, (16, 16))
    assert video.id in [one.id for one in client.videos.list()]
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_seconds_are_frames(live: Live) -> None:
    with live.http() as http:
        made = http.post("/v1/videos", data={"prompt": "a cat", "seconds": "0.3"}).json()
        assert made["seconds"] == "0.3125"  # 5 frames at 16 a second
        asked = http.post("/v1/videos", json={"prompt": "a cat", "seconds": "4000"})
        assert (asked.status_code, asked.json()["error"]["param"]) == (400, "seconds")
        picture = http.post("/v1/images/generations", json={"prompt": "a cat"})
        assert picture.json()["error"]["message"] == "tiny-wan makes videos; use /v1/videos"


def test_refusals(live: Live) -> None:
    with live.http() as http:
        for body, param in [
            ({"prompt": "a", "seconds": "1", "num_frames": 5}, "seconds"),
            ({"prompt": "a", "input_reference": "abcd"}, "input_reference"),
            ({"prompt": "a", "num_frames": 100_000}, "seconds"),
            ({"prompt": "a", "model": "sora-2"}, "model"),
        ]:
            got = http.post("/v1/videos", json=body)
            assert got.status_code in (400, 404)
            assert got.json()["error"]["param"] == param
