"""images.py: what a cell may say, what identifies a picture, and the pixels that diffusers' `load_image` gives."""

import base64
import io
import os
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.utils import load_image
from PIL import Image

from interlace.bulk.input import media as images
from interlace.bulk.input.media import DataImage, FileImage, ImageRules, RemoteImage, parse_images
from interlace.bulk.output.failures import is_transient
from interlace.errors import InvalidRequestError
from interlace.media import fetch as fetch_module
from tests.zoo.family import picture


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def one(cell: object, folder: Path, **rules: Any) -> images.ImageSource:
    (source,) = parse_images(cell, folder, ImageRules(**rules))
    return source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/a.png", "c;d.png", "[1].png"):
        picture(len(name)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a.png", ["a.png"]),
        (" ./sub/../a.png ", ["a.png"]),
        (["a.png", "sub/a.png"], ["a.png", "sub/a.png"]),
        (["a.png", None], ["a.png"]),
        ('["a.png", "b.png"]', ["a.png", "b.png"]),
        ("[1].png", ["[1].png"]),
        ("c;d.png", ["c;d.png"]),
        ({"bytes": None, "path": "a.png"}, ["a.png"]),
        ({"bytes": b"x", "path": "somewhere/else.png"}, ["else.png"]),
        (b"x", ["embedded image"]),
        ([b"x", "a.png"], ["embedded image", "a.png"]),
        ("data:image/png;base64,eA==", ["data:image/png;base64,..."]),
    ],
)
def test_what_a_cell_may_say(folder: Path, cell: object, names: list[str]) -> None:
    assert [source.name for source in parse_images(cell, folder)] == names


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "no input_images"),
        ([], "no input_images"),
        ("[]", "no input_images"),
        ("none.png", "No such file"),
        ("a.png;b.png", 'JSON array: ["a.png", "b.png"]'),
        ("sub", "is no file"),
        ("", "expected a path"),
        (7, "expected a path"),
        ([["a.png"]], "expected a path"),
        ({"text": "a"}, "an object with text"),
        ("https://example.com/a.png", "--allow-remote-images"),
        ("data:image/png,abc", "expected data:image/png;base64"),
        ("data:image/png;base64,%%%", "not base64"),
        ("x" * 5000, "can't be read"),
        ("a\0.png", "can't be read"),
    ],
)
def test_what_it_may_not(folder: Path, cell: object, words: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_images(cell, folder)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 600


def test_more_pictures_than_the_model_takes(folder: Path) -> None:
    rules = ImageRules(max_images=1, model="FluxKontextPipeline")
    with pytest.raises(InvalidRequestError, match=r"2 input_images; FluxKontextPipeline edits one picture"):
        parse_images(["a.png", "b.png"], folder, rules)
    assert len(parse_images(["a.png", "b.png"], folder, ImageRules(max_images=2))) == 2


def test_keys_say_which_picture_and_nothing_of_the_machine(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.png").write_bytes((folder / "a.png").read_bytes())
    os.utime(elsewhere / "a.png", (1, 1))
    assert one("a.png", folder).key == one("a.png", elsewhere).key
    assert one(str(folder / "a.png"), folder).key == one("a.png", folder).key
    assert one("a.png", folder).key != one("b.png", folder).key
    assert one("a.png", folder).key != one("sub/a.png", folder).key
    assert one(b"x", folder).key == one("data:image/png;base64,eA==", folder).key != one(b"y", folder).key
    with (elsewhere / "a.png").open("ab") as file:
        file.write(b" ")
    assert one("a.png", folder).key != one("a.png", elsewhere).key


def test_relative_paths_may_have_a_folder_of_their_own(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (source,) = parse_images("a.png", tmp_path_factory.mktemp("input"), ImageRules(folder=folder))
    assert isinstance(source, FileImage)
    assert source.path == folder / "a.png"


def _pictures() -> dict[str, Image.Image]:
    base = picture(1, (24, 16))
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    deep = Image.fromarray((np.arange(24 * 16, dtype=np.uint16) * 7).reshape(16, 24))
    return {
        "rgb": base,
        "rgba": alpha,
        "grey": base.convert("L"),
        "grey with alpha": alpha.convert("LA"),
        "palette": base.quantize(7),
        "one bit": base.convert("1"),
        "16 bit": deep,
    }


@pytest.mark.parametrize("name", _pictures())
@pytest.mark.parametrize("turn", range(1, 9))
def test_pixels_are_those_of_load_image(name: str, turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "a.png"
    options = {"transparency": 3} if name == "palette" and turn % 2 else {}
    path.write_bytes(png(_pictures()[name], exif=exif, **options))
    expected = load_image(str(path))
    for cell in ("a.png", path.read_bytes()):
        loaded = one(cell, tmp_path).load()
        assert loaded.mode == "RGB"
        assert loaded.size == expected.size == ((24, 16) if turn < 5 else (16, 24))
        assert np.array_equal(np.asarray(loaded), np.asarray(expected))


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "CMYK"), ("JPEG", "L"), ("TIFF", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P")]
)
def test_other_formats_too(kind: str, mode: str, tmp_path: Path) -> None:
    picture(3, (24, 16)).convert(mode).save(tmp_path / "a", kind)
    assert np.array_equal(np.asarray(one("a", tmp_path).load()), np.asarray(load_image(str(tmp_path / "a"))))


def test_broken_pictures_are_refused_in_words(tmp_path: Path) -> None:
    whole = png(picture(1, 64))
    for data, words in (
        (whole[: len(whole) // 2], "no whole picture"),
        (b"", "it is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format is not known"),
        (b"<svg/>", "format is not known"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            DataImage(data).load()
    with pytest.raises(InvalidRequestError, match="can't read the image"):
        FileImage(tmp_path / "a.png", "a.png", 1).load()


def test_a_decompression_bomb_is_refused_before_it_goes_off() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )
    started = time.thread_time()
    with pytest.raises(InvalidRequestError, match=r"too large: .*expected at most"):
        DataImage(bomb).load()
    assert time.thread_time() - started < 1


def test_files_that_are_too_large_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = one("a.png", folder)
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(InvalidRequestError, match="larger than"):
        source.load()
    with pytest.raises(InvalidRequestError, match="larger than"):
        one("a.png", folder)


def test_urls_lead_to_public_addresses_only(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:9/a.png", "http://169.254.169.254/latest", "http://[::1]/a.png", "http://10.0.0.1/"):
        source = one(url, tmp_path, allow_remote=True)
        assert isinstance(source, RemoteImage)
        assert source.key == f"url:{url}"
        with pytest.raises(InvalidRequestError, match="not a public address"):
            source.load()


class _Host(BaseHTTPRequestHandler):
    """Redirects /N to /N-1, and /0 is a picture; /inside leads to this machine's own metadata."""

    def do_GET(self) -> None:
        if self.path == "/0":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png(picture(1)))
            return
        self.send_response(302)
        place = "http://169.254.169.254/" if self.path == "/inside" else f"/{int(self.path[1:]) - 1}"
        self.send_header("Location", place)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_redirects_are_followed_to_public_addresses_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True).start()
    check = fetch_module.public_address

    def address(name: str, port: int) -> tuple[str, int]:
        return ("127.0.0.1", port) if name == "example.com" else check(name, port)

    monkeypatch.setattr(fetch_module, "public_address", address)
    base = f"http://example.com:{host.server_address[1]}"
    assert one(f"{base}/4", tmp_path, allow_remote=True).load().size == (32, 32)
    for path, words in (("/5", "the answer was 302"), ("/inside", "not a public address")):
        with pytest.raises(InvalidRequestError, match=words):
            one(base + path, tmp_path, allow_remote=True).load()
    host.shutdown()
    host.server_close()


def test_a_lost_connection_is_worth_another_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, **limits: Any) -> bytes:
        if url.endswith("lost"):
            raise ConnectionResetError("reset")
        return png(picture(1))

    monkeypatch.setattr("interlace.media.fetch.fetch", fetch)
    source = one("https://example.com/a.png", tmp_path, allow_remote=True)
    assert source.load().size == (32, 32)
    with pytest.raises(InvalidRequestError) as raised:
        one("https://example.com/lost", tmp_path, allow_remote=True).load()
    assert is_transient(raised.value)


def test_a_survey_of_many_pictures_is_quick(folder: Path) -> None:
    started = time.thread_time()
    for _ in range(2000):
        assert one("a.png", folder).key
    assert time.thread_time() - started < 1.0, "500 us each at the very most; 20 are usual"


def test_the_digest_of_what_was_loaded_is_at_hand(folder: Path) -> None:
    source = one("a.png", folder)
    source.load()
    (folder / "a.png").unlink()
    assert len(source.sha256) == 64
    text = base64.b64encode(b"x").decode()
    assert one(f"data:image/png;base64,{text}", folder).sha256 == one(b"x", folder).sha256
