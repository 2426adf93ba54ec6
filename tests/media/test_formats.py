"""Films and sound as files, decoded again by other code: frames, rate, size, likeness, length, and how it was made."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from interlace.errors import AbortedError, InvalidRequestError
from interlace.media.clip import Clip, Frames, Sound
from interlace.media.files import read_record
from interlace.media.formats.table import FILMS, SOUNDS, film_format
from interlace.media.stills import picture_of
from interlace.media.thumbnails import sprite_sheet, thumbnail

RECORD = {"prompt": "a röd fox — 狐", "seed": 7, "fps": 12.5}


def frames(count: int = 9, width: int = 64, height: int = 48) -> Frames:
    """A soft bright disc that moves over smooth colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    made = []
    for number in range(count):
        disc = np.exp(-((x - 8 - 5 * number) ** 2 + (y - height / 2) ** 2) / 80)[..., None]
        colours = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
        made.append((disc * [250, 40, 30] + (1 - disc) * colours).astype(np.uint8))
    return Frames(np.stack(made))


def tone(seconds: float, rate: int, channels: int = 2) -> Sound:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return Sound.of(np.stack([wave] * channels), rate)


def psnr(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """In decibels, of bytes."""
    return 10 * float(np.log10(255**2 / np.mean((got.astype(float) - expected) ** 2)))


def decoded(data: bytes) -> tuple[list[np.ndarray[Any, Any]], Any, dict[str, str]]:
    with av.open(io.BytesIO(data)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return shown, container.streams.video[0].average_rate, dict(container.metadata)


@pytest.mark.parametrize("name", ["mp4", "webm"])
@pytest.mark.parametrize(("fps", "rate"), [(12.5, "25/2"), (23.976, "24000/1001"), (24, "24")])
def test_films_come_back_frame_by_frame(name: str, fps: float, rate: str) -> None:
    film = frames()
    data = FILMS[name].encode(Clip(film, fps), RECORD)
    shown, got, texts = decoded(data)
    assert (len(shown), str(got), shown[0].shape) == (9, rate, (48, 64, 3))
    assert min(psnr(one, own) for one, own in zip(shown, film.array, strict=True)) > 30
    assert json.loads({key.lower(): text for key, text in texts.items()}["comment"]) == RECORD
    assert data == FILMS[name].encode(Clip(film, fps), RECORD)


def test_mp4_starts_before_it_is_all_there_and_plays_anywhere() -> None:
    data = FILMS["mp4"].encode(Clip(frames(5, 63, 47), 8), RECORD)
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 48)  # padded: 4:2:0 has no odd sides


@pytest.mark.parametrize(("name", "codec"), [("mp4", "aac"), ("webm", "opus")])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_goes_beside_the_film(name: str, codec: str, channels: int) -> None:
    data = FILMS[name].encode(Clip(frames(20), 10, tone(2.0, 22_050, channels)), RECORD)
    with av.open(io.BytesIO(data)) as container:
        audio = container.streams.audio[0]
        assert audio.codec_context.name == codec
        heard = list(container.decode(audio=0))
    samples = sum(frame.samples for frame in heard)
    assert samples / heard[0].sample_rate == pytest.approx(2.0, abs=0.06)
    loud = np.concatenate([frame.to_ndarray() for frame in heard], axis=1)
    assert np.abs(loud[:, 5000:15000]).max() == pytest.approx(0.5, abs=0.05)


def test_webp_gif_and_frames() -> None:
    film = frames(6)
    webp = Image.open(io.BytesIO(FILMS["webp"].encode(Clip(film, 12.5), RECORD)))
    assert (webp.n_frames, webp.size, json.loads(webp.getexif()[0x010E])) == (6, (64, 48), RECORD)
    webp.seek(5)
    webp.load()
    assert webp.info["duration"] == 80
    assert psnr(np.asarray(webp.convert("RGB")), film.array[5]) > 30
    gif = Image.open(io.BytesIO(FILMS["gif"].encode(Clip(film, 24), RECORD)))
    assert (gif.n_frames, json.loads(gif.info["comment"])) == (6, RECORD)
    length = 0
    for number in range(6):
        gif.seek(number)
        length += gif.info["duration"]
    assert length == 250  # 6 frames at 24 a second, in hundredths
    with zipfile.ZipFile(io.BytesIO(FILMS["frames"].encode(Clip(film, 24, tone(0.25, 8000)), RECORD))) as file:
        assert len(file.namelist()) == 8
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(file.read("00003.png")))), film.array[3])
        assert json.loads(file.read("film.json"))["fps"] == 24


@pytest.mark.parametrize("name", [name for name in SOUNDS if name != "pcm"])
@pytest.mark.parametrize("rate", [44_100, 24_000, 4])
def test_sounds_come_back(name: str, rate: int) -> None:
    sound = tone(1.5, rate) if rate > 4 else Sound.of(np.ones((2, 6)) / 2, rate)
    data = SOUNDS[name].encode(sound, RECORD)
    with av.open(io.BytesIO(data)) as container:
        heard = list(container.decode(audio=0))
        texts = {**container.metadata, **container.streams.audio[0].metadata}
    assert sum(frame.samples for frame in heard) / heard[0].sample_rate == pytest.approx(1.5, abs=0.15)
    assert heard[0].layout.nb_channels == 2
    assert json.loads({key.lower(): text for key, text in texts.items()}["comment"]) == RECORD


def test_lossless_sound_is_the_samples() -> None:
    sound = tone(0.5, 24_000)
    for name in ("wav", "flac"):
        got, rate = soundfile.read(io.BytesIO(SOUNDS[name].encode(sound, {})))
        assert rate == 24_000
        assert np.abs(got.T - sound.samples).max() < 1e-4
    assert len(SOUNDS["pcm"].encode(sound, {})) == 4 * sound.samples.shape[1]


@pytest.mark.parametrize("name", FILMS)
def test_an_encoder_stops_when_it_is_told(name: str) -> None:
    asked = iter([False, False, True])
    with pytest.raises(AbortedError):
        FILMS[name].encode(Clip(frames(), 8, stop=lambda: next(asked)), RECORD)


def test_thumbnails_and_sprite_sheets() -> None:
    film = frames(30, 640, 480)
    small = Image.open(io.BytesIO(thumbnail(film)))
    assert (small.format, small.size) == ("WEBP", (512, 384))
    sheet = Image.open(io.BytesIO(sprite_sheet(film)))
    assert (sheet.format, sheet.size) == ("JPEG", (5 * 256, 5 * 192))
    assert Image.open(io.BytesIO(sprite_sheet(frames(1)))).size == (64, 48)


def test_what_can_not_be_written_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="mp4, webm, webp, gif, frames"):
        film_format("avi")
    with pytest.raises(InvalidRequestError, match="expected uint8"):
        Frames(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(InvalidRequestError, match="fps"):
        Clip(frames(), 0)


def test_without_the_extra_the_pip_line_is_named() -> None:
    code = """
import sys
from importlib import util
real = util.find_spec
util.find_spec = lambda name, *rest: None if name in ("av", "soundfile") else real(name, *rest)
from interlace.media.files import read_record
from interlace.media.formats.table import best_film, film_format, sound_format
print(best_film().name)
for find, name in ((film_format, "mp4"), (sound_format, "mp3"), (sound_format, "wav")):
    try:
        print(find(name).name)
    except ValueError as error:
        print(error)
assert not {"av", "soundfile", "torch"} & sys.modules.keys()
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.splitlines()[0] == "webp"
    assert len(re.findall(re.escape('pip install "interlace[media]"'), said)) == 2
    assert said.splitlines()[-1] == "wav"


@pytest.mark.parametrize("name", ["mp4", "webm", "gif", "frames"])
def test_files_say_how_they_were_made_and_broken_ones_that_they_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"film.{FILMS[name].extension}"
    path.write_bytes(FILMS[name].encode(Clip(frames(5), 8), RECORD))
    assert read_record(path)["prompt"] == RECORD["prompt"]
    assert picture_of(path.read_bytes(), path.name).size == (64, 48)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InvalidRequestError) as caught:
        read_record(path)
    assert isinstance(caught.value.__cause__, (OSError, ValueError))
    with pytest.raises((OSError, ValueError)):
        picture_of(path.read_bytes(), path.name)
