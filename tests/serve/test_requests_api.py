"""Requests as things: seen in the queue, followed, cancelled, collected."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from interlace import AsyncOmni
from interlace.engine.tickets import lobby
from interlace.serve.jobs.models import Lanes
from interlace.serve.orders.fields import GenerationFields
from interlace.serve.orders.images import generation_order
from interlace.serve.orders.order import Order
from interlace.serve.routes import images
from serve.live import ENDLESS, SMALL, WAIT_S, Live, running, until

LONG = {**ENDLESS, "async": True}


def test_an_asynchronous_request_is_polled_collected_and_deleted(server: Live) -> None:
    with server.http() as http:
        made = http.post("/v1/images/generations", json={"prompt": "a star", **SMALL, "n": 2, "async": True})
        assert made.status_code == 202
        job = made.json()
        assert job["status"] == "queued"
        path = f"/v1/requests/{job['id']}"
        done = until(lambda: (found := http.get(path).json())["status"] == "completed" and found)
        assert done["progress"] == 100
        assert done["expires_at"] > done["completed_at"] >= done["created_at"]
        assert [http.get(f"{path}/content?index={i}").headers["content-type"] for i in (0, 1)] == ["image/png"] * 2
        assert http.get(f"{path}/content?index=2").status_code == 400
        assert http.delete(path).json()["deleted"] is True
        assert http.get(path).status_code == 404


def test_the_clients_id_names_the_request(patient: Live) -> None:
    with patient.http() as http:
        headers = {"X-Request-Id": "mine-1"}
        got = http.post("/v1/images/generations", json={"prompt": "a star", **SMALL}, headers=headers)
        assert got.headers["x-request-id"] == got.json()["id"] == "mine-1"
        again = http.post("/v1/images/generations", json={"prompt": "a dot", **SMALL}, headers=headers)
        assert again.status_code == 200, "that request is over"
        assert http.get("/v1/requests/mine-1").json()["prompt"] == "a dot"
        long = {"X-Request-Id": "mine-2"}
        assert http.post("/v1/images/generations", json=LONG, headers=long).status_code == 202
        clash = http.post("/v1/images/generations", json={"prompt": "a star", **SMALL}, headers=long)
        assert (clash.status_code, clash.json()["error"]["code"]) == (409, "request_id_in_use")
        http.delete("/v1/requests/mine-2")
        at_once = http.post("/v1/images/generations", json={"prompt": "a star", **SMALL}, headers=long)
        assert at_once.status_code == 200, "though the engine may not have let go of the first one yet"
        strange = http.get("/liveness", headers={"X-Request-Id": "../../etc/passwd"})
        assert strange.headers["x-request-id"].startswith("req-")


def test_a_running_request_shows_its_steps_and_can_be_cancelled(patient: Live) -> None:
    with patient.http() as http:
        job_id = http.post("/v1/images/generations", json=LONG).json()["id"]
        path = f"/v1/requests/{job_id}"
        seen = until(lambda: (found := http.get(path).json())["step"] > 1 and found)
        assert seen["num_steps"] == LONG["num_inference_steps"]
        assert seen["rows"] >= 1
        assert job_id in [job["id"] for job in http.get("/v1/requests").json()["data"]]
        stats = http.get("/v1/stats").json()
        line = next(line for line in stats["running"] if line["id"] == job_id)
        assert line["state"] == "in_progress"
        assert line["prompt"] == "a long one"
        assert job_id in stats["forwarding"]
        assert http.get(f"{path}/content").status_code == 409
        assert http.delete(path).json()["aborted"] is True
        gone = http.get(path).json()
        assert (gone["status"], gone["error"]["code"]) == ("failed", "aborted")
        until(lambda: not patient.state.models.current.draw.omni.engine.live())


def test_a_waiter_hears_that_its_request_was_cancelled(patient: Live) -> None:
    answers = []

    def ask() -> None:
        with patient.http(headers={"X-Request-Id": "waiter"}) as http:
            answers.append(http.post("/v1/images/generations", json={**LONG, "async": False}))

    thread = threading.Thread(target=ask)
    thread.start()
    with patient.http() as http:
        until(lambda: http.get("/v1/requests/waiter").status_code == 200)
        http.delete("/v1/requests/waiter")
    thread.join(WAIT_S)
    assert answers[0].status_code == 409
    assert answers[0].json()["error"]["code"] == "aborted"


def test_events_tell_the_whole_story(server: Live) -> None:
    body = {"prompt": "a star", "size": "64x64", "num_inference_steps": 8, "async": True, "partial_images": 1}
    with server.http() as http:
        with server.paused():  # until somebody listens
            job_id = http.post("/v1/images/generations", json=body).json()["id"]
            stream = http.send(http.build_request("GET", f"/v1/requests/{job_id}/events"), stream=True)
            until(lambda: server.events_followed(job_id))
        lines = [line for line in stream.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names[0] == "queued"
    assert names[-1] == "done"
    assert {"started", "step", "preview", "image"} <= set(names)
    assert all(entry["id"] == job_id for entry in data)
    assert data[names.index("preview")]["b64_json"]


def test_a_disconnect_aborts(patient: Live) -> None:
    import socket

    body = json.dumps({**LONG, "async": False}).encode()
    host, port = patient.url.removeprefix("http://").split(":")
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"X-Request-Id: gone\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + body)
        with patient.http() as http:
            until(lambda: http.get("/v1/requests/gone").status_code == 200)
    with patient.http() as http:
        until(lambda: http.get("/v1/requests/gone").json()["status"] == "failed")
    until(lambda: not patient.state.models.current.draw.omni.engine.live())


def test_positions_in_the_queue_follow_priority(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    draw = AsyncOmni(engines[0].omni.model, max_num_seqs=1)
    try:
        with running(draw, max_steps=LONG["num_inference_steps"]) as live, live.http() as http:

            def ask(priority: int) -> str:
                return http.post("/v1/images/generations", json={**LONG, "priority": priority}).json()["id"]

            first = ask(0)
            until(lambda: http.get(f"/v1/requests/{first}").json()["status"] == "in_progress")
            ids = [first, ask(0), ask(5)]
            places = [http.get(f"/v1/requests/{one}").json()["position"] for one in ids]
            assert places == [None, 2, 1]
            for one in ids:
                http.delete(f"/v1/requests/{one}")
    finally:
        draw.omni.close()


def test_what_comes_at_the_same_time_starts_together(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def order_of(fields: GenerationFields, lanes: Lanes) -> Order:
        if fields.prompt == "the later one":
            reading.set()
            assert go_on.wait(WAIT_S)
        return generation_order(fields, lanes)

    monkeypatch.setattr(lobby, "_GATHER_S", WAIT_S)
    monkeypatch.setattr(images, "generation_order", order_of)
    with server.http() as http, ThreadPoolExecutor() as clients:
        path = "/v1/images/generations"
        later = clients.submit(http.post, path, json={**SMALL, "prompt": "the later one"})
        assert reading.wait(WAIT_S)
        sooner = clients.submit(http.post, path, json={**SMALL, "prompt": "the sooner one"})
        until(lambda: http.get("/v1/requests").json()["data"])
        with server.paused():  # the engine has looked for what may start
            assert [one["status"] for one in http.get("/v1/requests").json()["data"]] == ["queued"]
        go_on.set()
        assert [one.result(WAIT_S).status_code for one in (sooner, later)] == [200, 200]
        assert http.post(path, json={**SMALL, "prompt": "a star", "size": "1x1"}).status_code == 400
        assert http.post(path, json={**SMALL, "prompt": "nobody is waited for"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/requests/..%2f..%2fetc", "/v1/requests/%00", "/v1/requests/" + "x" * 5000])
def test_strange_ids_are_not_found(server: Live, path: str) -> None:
    with server.http() as http:
        got = http.get(path)
    assert got.status_code == 404
    assert got.json()["error"]["message"]


def test_videos_are_refused_by_a_model_that_makes_pictures(server: Live) -> None:
    with server.http() as http:
        got = http.post("/v1/videos", json={"prompt": "a star"})
        assert (got.status_code, got.json()["error"]["code"]) == (400, "no_video_model")
        assert http.get("/v1/videos").json()["data"] == []
        assert http.get("/v1/videos/none").status_code == 404
