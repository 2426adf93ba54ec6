"""A server that sees, hears, writes and speaks, on a real socket, with OpenAI's own client."""

import base64
import io
import json
import threading
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

import openai
from stages.omni_models import save_qwen2_5_omni

from interlace import AsyncOmni
from interlace.media.sound import encode_wav
from interlace.stages.config import OmniStageConfig
from serve.live import WAIT_S, Live, b64, png, running, until

SPEECH = {"do_sample": False, "max_tokens": 40}
BIG = b64(png(900, 900))
SOUND = encode_wav(np.sin(np.arange(8000) / 9), 16000)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = save_qwen2_5_omni(tmp_path_factory.mktemp("omni") / "tiny-omni")
    config = OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder))
    omni = AsyncOmni(stages=[config])
    with running(omni, speaking=True, warmup=True, model_alias=("tiny",), max_input_pixels=500_000) as server:
        until(lambda: server.state.warm)
        yield server
    omni.omni.close()


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=120)


def user(*parts: dict[str, Any] | str) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def samples(data: str) -> np.ndarray:
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        assert file.getframerate() == 24000
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_openais_client_gets_text_and_speech(client: openai.OpenAI, live: Live) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=user("say something"),  # type: ignore[arg-type]
        modalities=["text", "audio"],
        audio={"voice": "Ethan", "format": "wav"},
        max_completion_tokens=12,
        extra_body={"speech": SPEECH},
    )
    message = answer.choices[0].message
    assert message.audio is not None
    assert message.audio.transcript == message.content
    assert len(samples(message.audio.data)) > 1000
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    again = live.http().post("/v1/chat/completions", json={
        "messages": user("say something"), "modalities": ["text", "audio"], "audio": {"voice": "Ethan"},
        "max_tokens": 12, "speech": SPEECH, "seed": 3}).json()  # fmt: skip
    assert again["choices"][0]["message"]["content"] == message.content


def test_a_stream_has_text_and_pcm_and_the_first_sound_comes_before_the_last_word(client: openai.OpenAI) -> None:
    until(lambda: sound_is_early(client))  # parts run side by side: on a busy machine one may be held up


def sound_is_early(client: openai.OpenAI) -> bool:
    """Whether the first sound of a streamed tale came before its last word; the sound and the text are checked."""
    stream = client.chat.completions.create(
        model="tiny",
        messages=user("tell a tale"),  # type: ignore[arg-type]
        modalities=["text", "audio"],
        audio={"voice": "Chelsie", "format": "pcm16"},
        max_completion_tokens=200,
        stream=True,
        extra_body={"speech": {**SPEECH, "max_tokens": 60}},
    )
    kinds, pcm, text = [], b"", ""
    for chunk in stream:
        for choice in chunk.choices:
            audio = choice.delta.audio
            if choice.delta.content:
                kinds.append("text")
                text += choice.delta.content
            elif audio is not None and audio.data:
                kinds.append("audio")
                pcm += base64.b64decode(audio.data)
    assert len(pcm) % 2 == 0
    assert np.abs(np.frombuffer(pcm, "<i2")).max() > 100
    assert len(text) > 20
    return kinds.index("audio") < len(kinds) - 1 - kinds[::-1].index("text")


def test_pictures_sounds_and_films_go_in(live: Live) -> None:
    from PIL import Image

    film = io.BytesIO()
    frames = [Image.new("RGB", (56, 56), colour) for colour in ("red", "green", "blue")]
    frames[0].save(film, "GIF", save_all=True, append_images=frames[1:], duration=500)
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(png(56, 56))}"}},
        {"type": "input_audio", "input_audio": {"data": b64(SOUND), "format": "wav"}},
        {"type": "video_url", "video_url": {"url": f"data:image/gif;base64,{b64(film.getvalue())}"}},
    ]
    with live.http() as http:
        body = {"max_tokens": 6, "temperature": 0}
        answers = [http.post("/v1/chat/completions", json={**body, "messages": user(part, "what")}) for part in parts]
        answers.append(http.post("/v1/chat/completions", json={**body, "messages": user(*parts, "what")}))
        assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
        asked = [answer.json()["usage"]["prompt_tokens"] for answer in answers]
        assert asked[3] > max(asked[:3])
        media = {"image": b64(png(56, 56)), "audio": b64(SOUND)}
        made = http.post("/generate", json={"prompt": "what", "multi_modal_data": media, "max_tokens": 6,
                                            "modalities": ["text", "audio"], "speech": SPEECH}).json()  # fmt: skip
    assert len(samples(made["outputs"][0]["audio"]["data"])) > 1000


def test_speech_says_the_words_that_it_is_given(client: openai.OpenAI, live: Live) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tiny", voice="Ethan", input="a red circle", response_format="wav", extra_body={"speech": SPEECH}
    ) as answer:
        data = answer.read()
    assert data[:4] == b"RIFF"
    assert len(data) > 1000
    with live.http() as http:
        assert http.get("/v1/audio/voices").json()["voices"] == ["Chelsie", "Ethan"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", {"messages": user("x"), "modalities": ["audio"], "audio": {"voice": "me"}}, "voice"),
        ("/v1/chat/completions", {"messages": user({"type": "input_audio", "input_audio":
                                                    {"data": "AAAA", "format": "wav"}})}, "WAV"),
        ("/v1/chat/completions", {"messages": user({"type": "input_audio", "input_audio":
                                                    {"data": "AAAA", "format": "mp3"}})}, "can be decoded"),
        ("/v1/chat/completions", {"messages": user({"type": "image_url", "image_url":
                                                    {"url": "http://localhost/x.png"}})}, "fetches none"),
        ("/v1/chat/completions", {"messages": user({"type": "image_url", "image_url":
                                                    {"url": "data:image/png;base64," + BIG}})}, "pixels"),
        ("/v1/chat/completions", {"messages": user({"type": "video_url", "video_url":
                                                    {"url": "data:video/mp4;base64,AAAA"}})}, "film"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, "expected user"),
        ("/v1/chat/completions", {"messages": user("x"), "max_tokens": 100_000}, "ask for less"),
        ("/v1/chat/completions", {"messages": user("x"), "audio": {"format": "midi"}}, "format"),
        ("/v1/audio/speech", {"input": "x", "voice": "me"}, "voice"),
        ("/v1/audio/speech", {"input": ""}, "input"),
        ("/generate", {"prompt": "x", "multi_modal_data": {"smell": 1}}, "smell"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_400_with_the_reason(live: Live, path: str, body: dict[str, Any], words: str) -> None:
    with live.http() as http:
        answers = [http.post(path, json=body)]
        if "messages" in body:
            answers.append(http.post(path, json={**body, "stream": True}))
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert words in answer.json()["error"]["message"]
    until(lambda: not live.state.registry.live())


def test_a_client_that_leaves_ends_its_request_and_no_other(live: Live) -> None:
    long = {"messages": user("talk"), "max_tokens": 3000, "stream": True, "modalities": ["text", "audio"]}
    with live.http() as http:
        with http.stream("POST", "/v1/chat/completions", json=long) as answer:
            lines = answer.iter_lines()
            first = [next(lines) for _ in range(3)]
            assert live.state.registry.live(), first
            beside = http.post("/v1/chat/completions", json={"messages": user("short"), "max_tokens": 4})
        assert beside.status_code == 200
        until(lambda: not live.state.registry.live())


def test_requests_are_listed_and_can_be_ended_by_id(live: Live) -> None:
    errors: list[dict[str, Any]] = []

    def ask() -> None:
        with live.http() as http:
            body = {"messages": user("talk"), "max_tokens": 3000}
            errors.append(http.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "long"}).json())

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: live.state.registry.live())
    with live.http() as http:
        assert [one["id"] for one in http.get("/v1/requests").json()["data"]] == ["long"]
        assert http.delete("/v1/requests/long").json()["deleted"]
        assert http.delete("/v1/requests/none").status_code == 404
    thread.join(WAIT_S)
    assert errors[0]["error"]["code"] == "aborted"


def test_the_server_says_what_it_is(live: Live) -> None:
    with live.http() as http:
        info = http.get("/info").json()
        assert info["modalities"] == {"input": ["text", "image", "audio", "video"], "output": ["text", "audio"]}
        assert [part["part"] for part in info["parts"]] == ["thinker", "talker", "code2wav"]
        assert http.get("/v1/models").json()["data"][0]["tasks"] == ["chat", "speech"]
        assert http.get("/health").status_code == 200
        assert "interlace:request_total" in http.get("/metrics").text
        assert set(http.get("/v1/stats").json()["engines"]) == {"thinker", "talker", "code2wav"}
        assert "<title>Interlace</title>" in http.get("/").text
        assert http.get("/static/page.js").status_code == 200
        assert json.loads(http.get("/openapi.json").text)["paths"]["/v1/audio/speech"]


def film_file(seconds: float, *, sound: bool, side: int = 64) -> bytes:
    """An MP4 of a few frames, with a tone beside them if it is to have sound."""
    from PIL import Image

    from interlace.media.clip import Clip, Frames, Sound
    from interlace.media.formats.table import film_format

    frames = Frames.of([Image.new("RGB", (side, side), (40 * i % 255, 90, 200)) for i in range(int(8 * seconds))])
    tone = Sound(np.sin(np.arange(int(16000 * seconds)) / 9, dtype=np.float32)[None] / 2, 16000)
    return film_format("mp4").encode(Clip(frames, 8.0, tone if sound else None), {})


def test_a_films_own_sound_is_heard(live: Live) -> None:
    pytest.importorskip("av")
    url = {"url": f"data:video/mp4;base64,{b64(film_file(1.5, sound=True))}"}
    body = {"max_tokens": 4, "temperature": 0, "messages": user({"type": "video_url", "video_url": url}, "what")}
    heard = {**body, "mm_processor_kwargs": {"use_audio_in_video": True}}
    with live.http() as http:
        counts = [http.post("/v1/chat/completions", json=one).json()["usage"]["prompt_tokens"] for one in (body, heard)]
        silent = {"url": f"data:video/mp4;base64,{b64(film_file(1.0, sound=False))}"}
        refused = [{"messages": user({"type": "video_url", "video_url": silent})}, {"messages": user("no film")}]
        answers = [http.post("/v1/chat/completions", json={**heard, **one}) for one in refused]
        big = {"url": f"data:video/mp4;base64,{b64(film_file(0.5, sound=False, side=800))}"}
        answers.append(http.post("/v1/chat/completions", json={**body, "messages": user(
            {"type": "video_url", "video_url": big})}))  # fmt: skip
    assert counts[1] > counts[0] + 10
    assert [answer.status_code for answer in answers] == [400] * 3
    words = [answer.json()["error"]["message"] for answer in answers]
    assert "no sound track" in words[0]
    assert "films whose own sound" in words[1]
    assert "the film has 800x800 pixels" in words[2]


@pytest.mark.parametrize("kind", ["mp3", "flac", "opus"])
def test_speech_comes_and_goes_in_other_formats(live: Live, client: openai.OpenAI, kind: str) -> None:
    pytest.importorskip("av")
    pytest.importorskip("soundfile")
    from interlace.media.soundfiles import decode_sound

    with client.audio.speech.with_streaming_response.create(
        model="tiny", voice="Ethan", input="a red circle", response_format=kind, extra_body={"speech": SPEECH}
    ) as answer:
        data = answer.read()
    samples_, rate = decode_sound(data)
    assert len(samples_) > 0.02 * rate
    assert np.abs(samples_).max() > 0.01
    part = {"type": "input_audio", "input_audio": {"data": b64(data), "format": kind}}
    with live.http() as http:
        asked = http.post("/v1/chat/completions", json={"messages": user(part, "what"), "max_tokens": 3})
        streamed = http.post("/v1/chat/completions", json={"messages": user("x"), "stream": True,
                                                           "audio": {"format": kind}})  # fmt: skip
    assert asked.status_code == 200, asked.text
    assert streamed.status_code == 400
    assert "while streaming expected wav" in streamed.json()["error"]["message"]
