"""`serve --replicas 2`: a request says which replica runs it; a model that edits does so beside its replicas."""

import base64
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from interlace import AsyncOmni
from interlace.cli.serve import ServeFlags, _in_processes
from interlace.engine.group.config import GroupConfig
from serve.live import SMALL, Live, picture, png, running

_WAIT_S = 180


@pytest.fixture(scope="module")
def replicated() -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        draws, edits = _in_processes(ServeFlags(), 2, GroupConfig())
    assert edits is not None
    with running(draws, edits) as live:
        yield live
    for one in (draws, edits):
        one.omni.close()


def test_a_request_names_the_replica_of_each_of_its_pictures(replicated: Live) -> None:
    with replicated.http() as http:
        body = {"prompt": "a star", **SMALL, "num_inference_steps": 100, "n": 4, "async": True}
        name = http.post("/v1/images/generations", json=body).json()["id"]
        done = _ended(http, name)
        assert done["status"] == "completed"
        assert {part["replica"] for part in done["parts"]} == {0, 1}
        listed = http.get("/v1/requests", params={"status": "all"}).json()["data"]
        assert next(one for one in listed if one["id"] == name)["parts"] == done["parts"]


def test_a_model_that_edits_does_so_beside_replicas_as_it_does_in_one_process(
    replicated: Live, engines: tuple[AsyncOmni, AsyncOmni]
) -> None:
    edit = {"prompt": "make it blue", **SMALL, "seed": 7, "image": base64.b64encode(png()).decode()}
    with replicated.http() as http, running(*engines) as one, one.http() as alone:
        assert {model["id"] for model in http.get("/v1/models").json()["data"]} >= {"demo", "demo-edit"}
        answers = [side.post("/v1/images/edits", json=edit, timeout=_WAIT_S) for side in (http, alone)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    ours, theirs = (np.asarray(picture(answer.json()["data"][0]["b64_json"]), int) for answer in answers)
    assert abs(ours - theirs).max() <= 1  # replicas run what --optimize auto found, which is equal within rounding


def _ended(http: httpx.Client, name: str) -> dict[str, object]:
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        found: dict[str, object] = http.get(f"/v1/requests/{name}").json()
        if found["status"] in ("completed", "failed"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} did not end in {_WAIT_S} s")
