"""What lies between a client and the server: proxies, prefixes, idle connections, silence, HEAD, clients that leave."""

import json
import logging
import socket
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from interlace import AsyncOmni
from interlace.errors import InvalidRequestError
from interlace.serve.http.forwarded import check_root_path
from interlace.serve.settings import ServeSettings
from serve.live import ENDLESS, SMALL, WAIT_S, Live, png, running, until

Engines = tuple[AsyncOmni, AsyncOmni]
PATH = "/v1/images/generations"
URL = {"prompt": "a star", **SMALL, "response_format": "url"}
SEEN = {"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "draw.example",
        "X-Forwarded-Prefix": "/art"}  # fmt: skip


def test_a_trusted_proxy_says_how_the_client_sees_the_server(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with server.http() as http, caplog.at_level(logging.INFO, "interlace.access"):
        url = http.post(PATH, json=URL, headers=SEEN).json()["data"][0]["url"]
        assert url.startswith("https://draw.example/art/files/")
        assert http.get(url.removeprefix("https://draw.example/art"), headers=SEEN).status_code == 200
        assert http.get(url.removeprefix("https://draw.example"), headers=SEEN).status_code == 200, "not stripped"
        assert http.get("/art/static/app.js", headers=SEEN).status_code == 200
        assert http.get("/docs", headers=SEEN).status_code == 200
        seen = ("ip:203.0.113.9", "/art" + PATH)
        until(lambda: seen in [(line["client"], line["path"]) for line in lines(caplog)])


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Of the access log. A request's line may come after its answer, and after the next test has begun."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "interlace.access"]


def test_strangers_are_not_believed(engines: Engines) -> None:
    with running(*engines, forwarded_allow_ips=("10.0.0.0/8",)) as live, live.http() as http:
        url = http.post(PATH, json=URL, headers=SEEN).json()["data"][0]["url"]
        assert url.startswith(f"{live.url}/files/")
        assert http.get("/art/health", headers=SEEN).status_code == 404


@pytest.mark.parametrize("bad", ["<script>", "a b", "example.org/x", "[::1", ""])
def test_a_host_that_is_none_is_not_put_into_urls(server: Live, bad: str) -> None:
    with server.http() as http:
        made = http.post(PATH, json=URL, headers={"X-Forwarded-Host": bad, "X-Forwarded-Prefix": f"/{bad}?"}).json()
    assert made["data"][0]["url"].startswith(f"{server.url}/files/")


def test_a_root_path_of_its_own(engines: Engines) -> None:
    with running(*engines, root_path="/art/") as live, live.http() as http:
        assert http.post(PATH, json=URL).json()["data"][0]["url"].startswith(f"{live.url}/art/files/")
        assert http.get("/art/v1/models").status_code == 200
        assert http.get("/v1/models").status_code == 200
    for bad in ("art", "/a b", "/../x y"):
        with pytest.raises(InvalidRequestError, match="root_path"):
            check_root_path(bad)


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/health", "/liveness", "/version", "/metrics", "/info", "/v1/models",
     "/v1/models/demo", "/v1/stats", "/v1/requests", "/static/app.js", "/v1beta/models", "/nothing", "/v1/videos",
     "/sdapi/v1/options"],
)  # fmt: skip
def test_head_is_get_without_a_body(server: Live, path: str) -> None:
    with server.http() as http:
        head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("content-type", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name)
    if path not in ("/metrics", "/v1/stats", "/info", "/v1/requests"):  # whose bodies change
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_of_a_stream_of_events_ends(server: Live) -> None:
    with server.http() as http, server.paused():
        job = http.post(PATH, json={"prompt": "a", **SMALL, "async": True}).json()
        head = http.head(f"/v1/requests/{job['id']}/events")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert http.get("/liveness").status_code == 200, "the connection is still good"
        http.delete(f"/v1/requests/{job['id']}")


def test_no_stream_is_silent_for_longer_than_it_may(engines: Engines) -> None:
    """A model that gets no further: signs of life are all that comes."""
    body = {"prompt": "a", **SMALL, "stream": True}
    chat = {"messages": [{"role": "user", "content": "a"}], **body}
    chat.pop("prompt")
    with running(*engines, stream_keep_alive_s=0.2) as live, live.http() as http:
        for path, sent, picture in (
            (PATH, body, b'"b64_json": "'),
            ("/v1/chat/completions", chat, b'"data:image'),
            ("/v1/responses", {"input": "a", **chat}, b'"result": "'),
        ):
            asked = {name: value for name, value in sent.items() if path != "/v1/responses" or name != "messages"}
            asked.pop("size") if path == "/v1/responses" else None
            with live.paused():
                stream = http.send(http.build_request("POST", path, json=asked), stream=True)
                assert stream.status_code == 200
                chunks, comments = stream.iter_raw(), 0
                while comments < 3:
                    comments += next(chunks).count(b": keep-alive")
            assert picture in b"".join(chunks)


ALIVE = b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n"


def answered(sock: socket.socket) -> bytes:
    """The whole answer of /liveness."""
    data = b""
    while not data.endswith(b"}"):
        more = sock.recv(4096)
        assert more, "the connection was closed"
        data += more
    return data


def connected(live: Live) -> socket.socket:
    """To its port; what is waited for longer than `WAIT_S` never comes."""
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def test_an_idle_connection_is_no_slow_head(engines: Engines) -> None:
    """And a head that is not finished is one: the connection that idles for as long as it likes is closed."""
    with running(*engines, idle_timeout_s=3600.0, header_timeout_s=3.0) as live, connected(live) as sock:
        sock.sendall(ALIVE)
        assert b"200" in answered(sock)
        time.sleep(4.0)  # longer than a head may take
        sock.sendall(ALIVE)
        assert b"200" in answered(sock)
        sock.sendall(ALIVE[:10])
        assert sock.recv(4096) == b""


def test_idle_connections_live_as_long_as_the_flag_says(engines: Engines) -> None:
    assert ServeSettings().idle_timeout_s == 75.0
    with running(*engines, idle_timeout_s=0.5, header_timeout_s=3600.0) as live, connected(live) as sock:
        sock.sendall(ALIVE)
        assert b"200" in answered(sock)
        assert sock.recv(4096) == b""


def test_private_network_preflights_of_allowed_origins(engines: Engines) -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Private-Network": "true"}  # fmt: skip
    with running(*engines, cors_origin=("https://app.example",)) as live, live.http() as http:
        allowed = http.options(PATH, headers=asks)
        assert allowed.headers["access-control-allow-private-network"] == "true"
        assert http.options(PATH, headers={**asks, "Origin": "https://evil.example"}).status_code == 400


def leave(live: Live, path: str, body: dict) -> str:
    """A client that goes away in the middle; the id of its request."""
    name = f"left-{path.rpartition('/')[2]}-{body.get('stream', False)}"
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\nContent-Type: application/json\r\n"
    with connected(live) as sock, live.http() as http:
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        until(lambda: http.get(f"/v1/requests/{name}").json().get("status") in ("queued", "in_progress"))
    return name


def test_a_client_that_leaves_is_499_everywhere(patient: Live, caplog: pytest.LogCaptureFixture) -> None:
    long = {name: ENDLESS[name] for name in ("size", "num_inference_steps")}
    chat = {"messages": [{"role": "user", "content": "a"}]}
    asked = [(PATH, {"prompt": "a", **long}), (PATH, {"prompt": "a", "stream": True, **long}),
             ("/v1/chat/completions", {**chat, **long}), ("/v1/chat/completions", {**chat, "stream": True, **long}),
             ("/generate", {"prompt": "a", "sampling_params": long})]  # fmt: skip
    with patient.http() as http, caplog.at_level(logging.INFO, "interlace.access"):
        before = left_so_far(http)
        for path, body in asked:
            name = leave(patient, path, body)
            until(lambda: any(line["id"] == name for line in lines(caplog)))  # noqa: B023
            job = http.get(f"/v1/requests/{name}").json()
            assert (job["status"], job["error"]["code"]) == ("failed", "client_closed_request"), path
        assert [line["status"] for line in lines(caplog) if line["id"].startswith("left-")] == [499] * len(asked)
        after = left_so_far(http)
    assert {name: after[name] - before.get(name, 0) for name in after} == {
        PATH: 2,
        "/v1/chat/completions": 2,
        "chat": 2,
    }


def left_so_far(http: httpx.Client) -> dict[str, float]:
    """From the metrics: answers 499 by path, and chats whose clients left."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "interlace:http_response_total" and labels["status"] == "499":
                found[labels["path"]] = sample.value
            elif sample.name == "interlace:request_total" and labels["outcome"] == "client_closed_request":
                found[labels["kind"]] = sample.value
    return {name: found.get(name, 0.0) for name in (PATH, "/v1/chat/completions", "chat")}


def test_ids_belong_to_their_keys(engines: Engines) -> None:
    body = {"prompt": "a", **SMALL, "async": True}
    with running(*engines, api_key=("one", "two")) as live, live.paused(), live.http() as http:
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "same"}
            made = http.post(PATH, json={**body, "prompt": key}, headers=headers)
            assert made.status_code == 202, "another key's id is not in use for this one"
            assert http.post(PATH, json=body, headers=headers).status_code == 409
        for key in ("one", "two"):
            mine = {"Authorization": f"Bearer {key}"}
            assert http.get("/v1/requests/same", headers=mine).json()["prompt"] == key
            assert [job["prompt"] for job in http.get("/v1/requests", headers=mine).json()["data"]] == [key]
        assert http.delete("/v1/requests/same", headers={"Authorization": "Bearer one"}).json()["aborted"]
        left = http.get("/v1/requests/same", headers={"Authorization": "Bearer two"}).json()
        assert left["error"] is None, "the other's request goes on"
        http.delete("/v1/requests/same", headers={"Authorization": "Bearer two"})


def test_health_is_never_logged(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with server.http() as http, caplog.at_level(logging.INFO, "interlace.access"):
        for path in ("/health", "/liveness", "/version"):
            http.get(path, headers={"X-Request-Id": "asked-how-it-is"})
        mine = until(lambda: [line for line in lines(caplog) if line["id"] == "asked-how-it-is"])
    assert [line["path"] for line in mine] == ["/version"]


def test_warnings_are_in_the_answer_the_header_and_the_log(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    sent = {"prompt": "a star", **SMALL, "style": "vivid", "metadata": {"a": "ü\n"}, "temperature": 0.2, "tools": []}
    with server.http() as http, caplog.at_level(logging.INFO, "interlace.access"):
        plain = http.post(PATH, json={"prompt": "a star", **SMALL})
        assert "warnings" not in plain.json()
        assert "x-interlace-warnings" not in plain.headers
        got = http.post(PATH, json=sent)
        names = [text.partition(" ")[0] for text in got.json()["warnings"]]
        assert names == ["style", "metadata", "temperature"]
        assert got.headers["x-interlace-warnings"].startswith("style is ignored: ")
        form = {"prompt": (None, "a"), "size": (None, "64x64"), "num_inference_steps": (None, "2"),
                "input_fidelity": (None, "high"), "image": ("a.png", png())}  # fmt: skip
        edited = http.post("/v1/images/edits", files=form)
        assert edited.json()["warnings"][0].startswith("input_fidelity")
        items = {"prompt": [{"prompt": "a", "bot_task": "think"}, "b"], "sampling_params": {**SMALL, "style": "x"}}
        assert [text.split(" ")[0] for text in http.post("/generate", json=items).json()["warnings"]] == [
            "style", "bot_task"]  # fmt: skip
        until(lambda: got.json()["warnings"] in [line.get("warnings") for line in lines(caplog)])


def test_strict_fields_refuse_what_would_be_ignored(engines: Engines) -> None:
    with running(*engines, strict_fields=True) as live, live.http() as http:
        for field, value in (("style", "vivid"), ("partial_images", 2), ("output_compression", 50)):
            got = http.post(PATH, json={"prompt": "a", **SMALL, field: value})
            assert (got.status_code, got.json()["error"]["param"]) == (400, field)
        assert http.post(PATH, json={"prompt": "a", **SMALL, "tools": [], "style": None}).status_code == 200
        error = http.post(PATH, json={"prompt": "a red circle " * 10, **SMALL}).json()["error"]
        assert (error["param"], error["code"]) == ("prompt", "prompt_too_long")
        assert error["message"].startswith("the prompt has 31 tokens and the model reads 24")


def test_sizes_that_the_model_cannot_make(engines: Engines, server: Live) -> None:
    with running(*engines, size_policy="nearest") as live, live.http() as http:
        got = http.post(PATH, json={"prompt": "a", "num_inference_steps": 1, "size": "1792x1024"}).json()
        assert got["size"] == "192x112"
        assert got["warnings"] == ["size 1792x1024 is not made here: 192x112 is the nearest that demo makes"]
        sides = http.post(PATH, json={"prompt": "a", "num_inference_steps": 1, "width": 100, "height": 70}).json()
        assert sides["size"] == "96x64"
    with server.http() as http:
        wide = http.post(PATH, json={"prompt": "a", "num_inference_steps": 1, "aspect_ratio": "16:9"}).json()
        assert wide["size"] == "176x96"
        for sent, param in (({"size": "70x64"}, "size"), ({"width": 64, "height": 70}, "height")):
            error = http.post(PATH, json={"prompt": "a", **sent}).json()["error"]
            assert error["param"] == param
            assert "70 is not a multiple of 16" in error["message"]
        big = http.post(PATH, json={"prompt": "a", "size": "big"}).json()["error"]["message"]
        assert big == "size is 'big'; expected WIDTHxHEIGHT in pixels, such as 512x512, or auto"
        other = http.post(PATH, json={"prompt": "a", "model": "dall-e-3"}).json()["error"]["message"]
        assert "expected demo or demo-edit, or none; a server that is started with --model-alias" in other


def test_answers_as_files_and_by_url(engines: Engines) -> None:
    body = {"prompt": "a", **SMALL}
    with running(*engines, response_format="url", model_alias=("dall-e-3",)) as live, live.http() as http:
        assert "url" in http.post(PATH, json=body).json()["data"][0]
        assert "b64_json" in http.post(PATH, json={**body, "response_format": "b64_json"}).json()["data"][0]
    with running(*engines, model_alias=("dall-e-3", "gpt-image-1")) as live, live.http() as http:
        assert "url" in http.post(PATH, json={**body, "model": "dall-e-3"}).json()["data"][0]
        assert "b64_json" in http.post(PATH, json={**body, "model": "gpt-image-1"}).json()["data"][0]
        file = http.post(PATH, json={**body, "response_format": "file", "output_format": "webp"})
        assert (file.headers["content-type"], file.content[8:12]) == ("image/webp", b"WEBP")
