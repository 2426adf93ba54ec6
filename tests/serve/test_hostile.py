"""Bodies, pictures, keys, sockets and URLs of people who mean no good: the right status, and the server lives on."""

import gc
import io
import json
import os
import random
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import httpx
import pytest
from PIL import Image

from interlace import AsyncOmni
from interlace.media.fetch import fetch, public_address
from interlace.serve.http.errors import ApiError
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.settings import ServeSettings
from serve.live import SMALL, WAIT_S, Live, b64, mask_png, png, running, until

PATH = "/v1/images/generations"
EDITS = "/v1/images/edits"


@pytest.fixture(autouse=True)
def _alive_after(server: Live):
    yield
    with server.http() as http:
        assert http.get("/health").status_code == 200


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that would decode to `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({"image": ("a.png", bomb(60_000, 60_000))}, "image"),
        ({"image": ("a.png", png()[:60])}, "image"),
        ({"image": ("a.png", b"not a picture")}, "image"),
        ({"image": ("a.png", b"")}, "image"),
        ({"image": ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, "image"),
        ({"image": ("a.png", png(2000, 2))}, "image"),
        ({"image": ("a.png", png()), "mask": ("m.png", png())}, "mask"),
        ({"image": ("a.png", png()), "mask": ("m.png", mask_png(32, 32))}, "mask"),
        ({"image": ("a.png", png()), "markup": ("m.png", mask_png())}, "markup"),
        ({"image": ("a.png", png()), "mask_image": ("m.png", mask_png(32, 32))}, "mask"),
        ({"image": ("a.png", png()), "other": ("m.png", png())}, "other"),
        ({}, "image"),
    ],
)
def test_pictures_that_are_none(server: Live, files: dict, param: str) -> None:
    data = {"prompt": "make it blue", "size": "64x64", "num_inference_steps": "1"}
    with server.http() as http:
        got = http.post(EDITS, files={**files, **{name: (None, value) for name, value in data.items()}})
    assert got.status_code == 400, got.text
    assert got.json()["error"]["param"] == param


def test_too_many_pictures(server: Live) -> None:
    files = [("image[]", ("a.png", png(16, 16)))] * 17
    with server.http() as http:
        got = http.post(EDITS, files=files, data={"prompt": "a"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"prompt": NaN}', b"[" * 200_000, b'{"a":' * 200_000],
)
def test_bodies_that_are_no_objects(server: Live, body: bytes) -> None:
    with server.http() as http:
        for path in (PATH, EDITS, "/generate", "/v1/videos"):
            got = http.post(path, content=body, headers={"content-type": "application/json"})
            assert got.status_code == 400, (path, got.text)
            assert got.json()["error"]["code"] == "invalid_json"


def test_other_content_types(server: Live) -> None:
    with server.http() as http:
        assert http.post(PATH, content=b"x", headers={"content-type": "text/xml"}).status_code == 415
        assert http.put(PATH, content=b"x").status_code == 405
        assert http.get("/v1/nothing").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
def test_forms_that_break_off(server: Live, cut: float) -> None:
    request = httpx.Request("POST", server.url + EDITS, files={"image": ("a.png", png())}, data={"prompt": "a"})
    body = request.read()
    headers = {"content-type": request.headers["content-type"]}
    with server.http() as http:
        got = http.post(EDITS, content=body[: int(len(body) * cut)], headers=headers)
    assert got.status_code == 400
    assert got.json()["error"]["code"] in ("invalid_form", "missing_field", "invalid_image")


def test_thousands_of_fuzzed_bodies_get_an_answer(server: Live) -> None:
    """Fields of wrong types, values out of range, unknown names: 4xx with an error in the usual form."""
    draw = random.Random(0)
    names = ["prompt", "n", "size", "quality", "seed", "width", "height", "stream", "user", "lora", "x" * 300]
    names += ["async", "extra_params", "num_inference_steps", "guidance_scale", "output_format", "background", "model"]
    values = [None, True, -1, 0, 2**70, 1e308, "", "\0", "a" * 5000, "64x64", "-1x-1", [], {}, [[[]]], {"a": {"b": 1}}]
    with server.http() as http:
        for _ in range(int(os.environ.get("INTERLACE_FUZZ_N", "500"))):
            body = {draw.choice(names): draw.choice(values) for _ in range(draw.randrange(6))}
            body["nonsense"] = draw.choice(values)
            path = draw.choice((PATH, EDITS, "/generate", "/v1/videos"))
            got = http.post(path, json=body)
            assert got.status_code == 400, (path, body, got.text)
            assert set(got.json()["error"]) == {"message", "type", "param", "code"}


def test_raw_bytes_instead_of_http(server: Live) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    draw = random.Random(1)
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as sock:
            sock.sendall(draw.randbytes(200) + b"\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400")


def test_limits_are_the_servers_to_set(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    limits = {"max_body_mb": 0.05, "max_n": 2, "max_steps": 5, "max_image_size": 96, "max_prompt_chars": 20}
    with running(*engines, **limits) as live, live.http() as http:
        large = http.post(PATH, json={"prompt": "a" * 60_000})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        streamed = http.post(PATH, content=(b"x" * 10_000 for _ in range(9)), headers={"content-type": "text/json"})
        assert streamed.status_code in (413, 415)
        for body, param in [
            ({"n": 3}, "n"),
            ({"num_inference_steps": 6}, "num_inference_steps"),
            ({"size": "112x64"}, "size"),
            ({"prompt": "b" * 21}, "prompt"),
        ]:
            got = http.post(PATH, json={"prompt": "a", "size": "64x64", "num_inference_steps": 1, **body})
            assert (got.status_code, got.json()["error"]["param"]) == (400, param), got.text


def test_keys_open_and_wrong_ones_do_not(engines: tuple[AsyncOmni, AsyncOmni], tmp_path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of friends\nsecond\n")
    with running(*engines, api_key=("first",), api_key_file=str(file)) as live, live.http() as http:
        for path in ("/v1/requests", "/v1/models", "/info", "/v1/stats"):
            assert http.get(path).status_code == 401
            assert (
                http.get(path, headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == "invalid_api_key"
            )
            assert http.get(path, headers={"Authorization": "Bearer second"}).status_code == 200
        assert http.get("/liveness").status_code == http.get("/metrics").status_code == 200
        mine, theirs = {"Authorization": "Bearer first"}, {"Authorization": "Bearer second"}
        job = http.post(PATH, json={"prompt": "secret", **SMALL, "async": True}, headers=mine).json()
        assert http.get(f"/v1/requests/{job['id']}", headers=theirs).status_code == 404
        assert http.delete(f"/v1/requests/{job['id']}", headers=theirs).status_code == 404
        assert "secret" not in http.get("/v1/stats", headers=theirs).text
        assert http.get(f"/v1/requests/{job['id']}", headers=mine).status_code == 200


def test_a_full_queue_says_when_to_come_back(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    draw = AsyncOmni(engines[0].omni.model, max_num_seqs=1)
    long = {"prompt": "a", "size": "128x128", "num_inference_steps": 140, "async": True}
    try:
        with running(draw, max_queued_requests=1) as live, live.paused(), live.http() as http:
            ids = [http.post(PATH, json=long).json()["id"] for _ in range(2)]
            refused = http.post(PATH, json=long)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert 'interlace:refused_total{reason="queue_full"} 1.0' in http.get("/metrics").text
            for one in ids:
                http.delete(f"/v1/requests/{one}")
        with running(draw, max_requests_per_key=1) as live, live.paused(), live.http() as http:
            first = http.post(PATH, json=long).json()["id"]
            assert http.post(PATH, json=long).json()["error"]["code"] == "client_limit"
            http.delete(f"/v1/requests/{first}")
    finally:
        draw.omni.close()


def test_clients_that_leave_in_mid_body_are_no_fault_of_ours(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with caplog.at_level("INFO", "interlace.access"):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head.encode() + b'{"prompt"')
        until(lambda: "went away" in caplog.text)
    assert "Traceback" not in caplog.text
    assert '"status": 499' in caplog.text


def test_bodies_of_all_together_are_bounded(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    with running(*engines, max_bodies_mb=0.05) as live, live.http() as http:
        got = http.post(PATH, json={"prompt": "a" * 60_000})
        assert (got.status_code, got.json()["error"]["code"]) == (503, "bodies_full")
        assert http.post(PATH, json={"prompt": "a", "n": 99}).status_code == 400


def test_large_pictures_are_scaled_down_before_they_are_kept() -> None:
    settings = ServeSettings(max_image_size=100)
    assert decode_image(png(400, 200), settings).size == (100, 50)
    assert decode_image(png(400, 200, mode="P", colour=1), settings).size == (100, 50)
    assert decode_image(mask_png(400, 200), settings, alpha=True).getpixel((2, 2))[3] == 0


def test_slow_heads_and_slow_bodies_are_cut_off(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    for limits, sent, answer in (
        ({"header_timeout_s": 0.5}, b"GET /liveness HTTP/1.1\r\nHost:", b""),
        ({"body_timeout_s": 0.5}, f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode(), b" 408 "),
    ):
        with running(*engines, **{"header_timeout_s": 3600.0, "body_timeout_s": 3600.0, **limits}) as live:
            host, port = live.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=WAIT_S) as sock:
                sock.sendall(sent)
                got = sock.recv(1000)
        assert answer in got if answer else not got


def test_a_hundred_idle_connections_do_not_keep_others_out(server: Live) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    socks = [socket.create_connection((host, int(port)), timeout=WAIT_S) for _ in range(100)]
    try:
        with server.http() as http:
            assert http.post(PATH, json={"prompt": "a star", **SMALL}).status_code == 200
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:8000/",
        "http://[::1]/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://192.168.0.1/",
        "http://[fe80::1]/",
        "http://[64:ff9b::7f00:1]/",
        "ftp://example.org/",
        "http://user@example.org/",
        "http:///x",
        "file:///etc/passwd",
    ],
)
def test_urls_lead_nowhere_inside(url: str) -> None:
    with pytest.raises((ValueError, OSError)):
        fetch(url, max_bytes=100, timeout_s=1)


def test_urls_are_off_unless_allowed(server: Live) -> None:
    with server.http() as http:
        got = http.post(EDITS, json={"prompt": "a", "image": "http://example.org/a.png"})
    assert got.json()["error"]["code"] == "urls_not_allowed"


def test_a_fetch_is_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def trickle() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                try:
                    for _ in range(600):
                        connection.sendall(b"H" if slow else b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
                        time.sleep(0.1)
                except OSError:
                    pass

    monkeypatch.setattr("interlace.media.fetch.public_address", lambda host, port: ("127.0.0.1", port))
    slow = False
    threading.Thread(target=trickle, daemon=True).start()
    with pytest.raises(ValueError, match="larger"):
        fetch(f"http://there:{port}/", max_bytes=500, timeout_s=WAIT_S)
    slow = True
    start = time.monotonic()
    with pytest.raises(OSError):
        fetch(f"http://there:{port}/", max_bytes=500, timeout_s=0.5)
    assert time.monotonic() - start < 30, "half of what all bytes would take"
    server.close()


def test_public_addresses_pass() -> None:
    assert public_address("93.184.216.34", 80) == ("93.184.216.34", 80)


def test_upright_and_on_white() -> None:
    settings = ServeSettings()
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), settings).size == (20, 40)
    assert decode_image(png(mode="RGBA", colour=(0, 0, 0, 0)), settings).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ApiError, match="base64"):
        image_bytes("data:image/png,abc", settings)
    with pytest.raises(ApiError, match="stores no files"):
        image_bytes({"file_id": "x"}, settings)
    assert image_bytes({"image_url": {"url": b64(b"x")}}, settings) == b"x"


def test_nothing_leaks_over_many_requests(server: Live) -> None:
    def measure() -> tuple[int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), len(server.state.models.current.draw.omni.engine.live())

    def round_() -> None:
        with server.http() as http:
            for i in range(10):
                http.post(PATH, json={"prompt": "a star", "size": "64x64", "num_inference_steps": 1})
                http.post(EDITS, files={"image": ("a.png", png())}, data={"prompt": "a", "n": "99"})
                job = http.post(PATH, json={"prompt": f"{i}", "size": "64x64", "async": True}).json()
                http.delete(f"/v1/requests/{job['id']}")

    round_()
    before = measure()
    for _ in range(3):
        round_()
    until(lambda: server.state.registry.admission.live == 0)
    until(lambda: (after := measure())[0] <= before[0] + 3 and after[1] == 0)
    assert all(not job.num_bytes for job in server.state.registry.jobs if not job.background)
    assert all(not job.watchers for job in server.state.registry.jobs if job.is_over)


def test_logs_hold_no_prompts(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "interlace.access"), server.http() as http:
        http.post(PATH, json={"prompt": "very private", **SMALL}, headers={"X-Request-Id": "mine"})

        def mine() -> list[dict[str, object]]:
            lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "interlace.access"]
            return [line for line in lines if line["id"] == "mine"]

        (line,) = until(mine)  # it is written after the answer
    assert (line["status"], line["steps"]) == (200, 2)
    assert "private" not in caplog.text
