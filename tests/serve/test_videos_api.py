"""/v1/videos with a tiny video model, and /v1/audio with a tiny one of sound, asked by OpenAI's own client."""

import io
from collections.abc import Iterator
from dataclasses import replace

import av
import httpx
import openai
import pytest
from PIL import Image
from zoo.films import FAMILIES
from zoo.video import _stable_audio, _wan

from interlace import AsyncOmni
from interlace.models.loader import LoadedModel
from interlace.serve.orders.fields import VideoFields
from interlace.serve.orders.sizes import limits_of, resolve_size
from serve.live import Live, b64, png, running, until

DEFAULTS = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    omni = AsyncOmni(LoadedModel("tiny-wan", _wan(), DEFAULTS))
    with running(omni) as server:
        yield server
    omni.omni.close()


@pytest.fixture(scope="module")
def beginning() -> Iterator[Live]:
    omni = AsyncOmni(LoadedModel("tiny-ltx-i2v", FAMILIES["ltx-i2v"].build(), {**DEFAULTS, "height": 32, "width": 32}))
    with running(omni, warmup=True) as server:
        yield server
    omni.omni.close()


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def sounding() -> Iterator[Live]:
    omni = AsyncOmni(LoadedModel("tiny-audio", _stable_audio(), {"num_inference_steps": 2}))
    with running(omni) as server:
        yield server
    omni.omni.close()


def test_a_video_is_made_polled_downloaded_and_deleted(client: openai.OpenAI) -> None:
    video = client.videos.create_and_poll(model="tiny-wan", prompt="a cat", poll_interval_ms=50)
    assert (video.status, video.progress, video.object, video.seconds) == ("completed", 100, "video", "0.5625")
    film = client.videos.download_content(video.id)
    assert film.response.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(film.read())) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (len(shown), shown[0].shape, container.streams.video[0].average_rate) == (9, (16, 16, 3), 16)
        assert container.metadata["title"] == "a cat"
    for variant, kind in (("thumbnail", "WEBP"), ("spritesheet", "JPEG")):
        still = Image.open(io.BytesIO(client.videos.download_content(video.id, variant=variant).read()))
        assert (still.format, still.size[0] % 16) == (kind, 0)
    again = client.videos.remix(video.id, prompt="a dog")
    assert (again.remixed_from_video_id, again.prompt) == (video.id, "a dog")
    assert client.videos.poll(again.id, poll_interval_ms=50).status == "completed"
    assert {video.id, again.id} <= {one.id for one in client.videos.list()}
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_a_film_begins_with_a_picture(beginning: Live) -> None:
    client = openai.OpenAI(base_url=f"{beginning.url}/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny-ltx-i2v", "prompt": "it turns", "poll_interval_ms": 50, "extra_body": {"seed": 1}}
    films = []
    for colour in ("red", "blue"):
        video = client.videos.create_and_poll(input_reference=("a.png", png(32, 32, colour), "image/png"), **asked)
        assert video.status == "completed"
        films.append(client.videos.download_content(video.id).read())
    with av.open(io.BytesIO(films[0])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    with beginning.http() as http:
        url = f"data:image/png;base64,{b64(png(32, 32, 'red'))}"
        body = {"prompt": "it turns", "seed": 1, "image_reference": {"image_url": url}}
        assert http.post("/v1/videos/sync", json=body).content == films[0] != films[1]
        assert http.get("/health").status_code == 200, "the warm-up has no picture, and does without"
        refused = http.post("/v1/videos", json={"prompt": "it turns"}).json()["error"]
        assert refused["param"] == "input_reference", refused
        remixed = http.post(f"/v1/videos/{video.id}/remix", json={"prompt": "a dog"}).json()["error"]
        assert remixed["code"] == "picture_missing"


def test_ranges_of_a_film(live: Live) -> None:
    with live.http() as http:
        made = http.post("/v1/videos/sync", json={"prompt": "a cat", "seed": 5, "num_frames": 5})
        assert (made.headers["content-type"], made.headers["x-interlace-seed"]) == ("video/mp4", "5")
        job = http.post("/v1/videos", json={"prompt": "a cat", "seed": 5, "num_frames": 5}).json()
        ended(http, job["id"])
        place = f"/v1/videos/{job['id']}/content"
        whole = http.get(place)
        assert (whole.content, whole.headers["accept-ranges"]) == (made.content, "bytes")
        for asked, expected in (
            ("bytes=0-9", slice(0, 10)),
            ("bytes=20-", slice(20, None)),
            ("bytes=-7", slice(-7, None)),
        ):
            part = http.get(place, headers={"Range": asked})
            assert (part.status_code, part.content) == (206, whole.content[expected])
        assert (
            part.headers["content-range"]
            == f"bytes {len(whole.content) - 7}-{len(whole.content) - 1}/{len(whole.content)}"
        )
        assert http.get(place, headers={"Range": "bytes=9999999-"}).status_code == 416
        assert http.get(place, headers={"Range": "pages=1-2"}).content == whole.content


def test_a_cancelled_film_says_so(live: Live) -> None:
    with live.http() as http:
        with live.paused():
            job = http.post("/v1/videos", json={"prompt": "a cat", "num_inference_steps": 150}).json()
            ended = http.post(f"/v1/videos/{job['id']}/cancel").json()
        assert (ended["status"], ended["error"]["code"]) == ("failed", "aborted")
        assert http.get(f"/v1/videos/{job['id']}/content").status_code == 409


@pytest.mark.parametrize(
    ("name", "kind"), [("webm", "video/webm"), ("webp", "image/webp"), ("frames", "application/zip")]
)
def test_other_formats_and_peers_fields(live: Live, name: str, kind: str) -> None:
    fields = {
        "prompt": "a cat",
        "num_frames": 5,
        "fps": 8,
        "flow_shift": 3.0,
        "guidance_scale_2": 1,
        "output_format": name,
    }
    with live.http() as http:
        made = http.post("/v1/videos/sync", json={**fields, "generate_sound": False})
        assert (made.status_code, made.headers["content-type"]) == (200, kind)


def test_previews_are_drawn_on_the_way(live: Live) -> None:
    with live.http() as http:
        with live.paused():  # until somebody listens
            job = http.post("/v1/videos", json={"prompt": "a cat", "num_inference_steps": 40}).json()
            request = http.build_request("GET", f"/v1/requests/{job['id']}/events")
            stream = http.send(request, stream=True)
            until(lambda: live.events_followed(job["id"]))
        events = stream.read().decode()
    assert events.count("event: preview") >= 1
    assert "event: done" in events


def test_sound_is_the_answer(sounding: Live) -> None:
    client = openai.OpenAI(base_url=f"{sounding.url}/v1", api_key="none", max_retries=0)
    spoken = client.audio.speech.create(
        model="tiny-audio", voice="alloy", input="rain on a roof", response_format="wav"
    )
    assert spoken.read()[:4] == b"RIFF"
    assert "speaks no words" in spoken.response.headers["x-interlace-warnings"]
    with sounding.http() as http:
        made = http.post(
            "/v1/audio/generate", json={"input": "rain", "audio_length": 1, "response_format": "mp3", "seed": 1}
        )
        assert (made.status_code, made.headers["content-type"]) == (200, "audio/mpeg")
        with av.open(io.BytesIO(made.content)) as container:
            heard = sum(frame.samples for frame in container.decode(audio=0))
            assert heard / container.streams.audio[0].rate == pytest.approx(1.0, abs=0.15)
        job = http.post("/v1/audio/generate", json={"prompt": "rain", "seconds": 1, "async": True}).json()
        ended(http, job["id"])
        assert http.get(f"/v1/requests/{job['id']}/content").content[:4] == b"RIFF"
        refused = http.post("/v1/videos", json={"prompt": "a cat"}).json()["error"]
        assert refused["message"] == "tiny-audio makes sound; use /v1/audio/generate"


def ended(http: httpx.Client, job_id: str) -> None:
    """Returns once a job is over, which its events say."""
    assert "event: done" in http.get(f"/v1/requests/{job_id}/events", timeout=120).text


def test_seconds_are_frames(live: Live) -> None:
    with live.http() as http:
        made = http.post("/v1/videos", data={"prompt": "a cat", "seconds": "0.3"}).json()
        assert made["seconds"] == "0.3125"  # 5 frames at 16 a second
        asked = http.post("/v1/videos", json={"prompt": "a cat", "seconds": "4000"})
        assert (asked.status_code, asked.json()["error"]["param"]) == (400, "seconds")
        picture = http.post("/v1/images/generations", json={"prompt": "a cat"})
        assert picture.json()["error"]["message"] == "tiny-wan makes videos; use /v1/videos"


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/sync"])
def test_a_size_that_the_model_cannot_make_is_refused_at_once(live: Live, path: str) -> None:
    told = "size is 40x32: width 40 is not a multiple of 16, as WanPipeline wants; try 32 or 48"
    with live.http() as http:
        before = len(http.get("/v1/videos").json()["data"])
        got = http.post(path, json={"prompt": "a cat", "size": "40x32"})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "size")
        assert got.json()["error"]["message"] == told
        sides = http.post(path, json={"prompt": "a cat", "width": 32, "height": 40}).json()["error"]
        assert (sides["param"], sides["message"][:30]) == ("height", "height 40 is not a multiple of")
        assert len(http.get("/v1/videos").json()["data"]) == before, "no job failed for it"
        good = http.post("/v1/videos/sync", json={"prompt": "a cat", "size": "48x32", "num_frames": 5})
        assert good.status_code == 200


def test_shapes_and_nearest_sizes_are_those_that_the_pipeline_takes(beginning: Live) -> None:
    """LTX-Video wants multiples of 32, which is more than what its autoencoder packs in twos."""
    state = beginning.state
    lanes = state.models.current
    settings = replace(state.settings, size_policy="nearest")
    assert limits_of(lanes.draw, settings) == {"multiple_of": 32, "max_size": settings.max_image_size, "min_size": 32}
    fields = VideoFields.of({"prompt": "it turns", "size": "70x40"})
    assert resolve_size(fields, lanes.draw, settings) == (64, 32)
    assert fields.warnings == ["size 70x40 is not made here: 64x32 is the nearest that tiny-ltx-i2v makes"]
    wide = VideoFields.of({"prompt": "it turns", "aspect_ratio": "2:1"})
    assert resolve_size(wide, lanes.draw, settings) == (64, 32)


def test_refusals(live: Live) -> None:
    with live.http() as http:
        for body, param in [
            ({"prompt": "a", "seconds": "1", "num_frames": 5}, "seconds"),
            ({"prompt": "a", "input_reference": "abcd"}, "input_reference"),
            ({"prompt": "a", "num_frames": 100_000}, "seconds"),
            ({"prompt": "a", "model": "sora-2"}, "model"),
            ({"prompt": "a", "guidance_scale_2": 3}, "guidance_scale_2"),
            ({"prompt": "a", "boundary_ratio": 0.5}, "boundary_ratio"),
            ({"prompt": "a", "generate_sound": True}, "generate_sound"),
            ({"prompt": "a", "image_reference": "abcd"}, "input_reference"),
        ]:
            got = http.post("/v1/videos", json=body)
            assert got.status_code in (400, 404)
            assert got.json()["error"]["param"] == param
