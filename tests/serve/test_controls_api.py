"""ControlNets over HTTP: named in a request, with a picture in base64."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from interlace import AsyncOmni
from serve.live import Live, png, running
from tests.zoo.stable_diffusion import controlnet, tiny

BODY = {"prompt": "a", "size": "32x32", "num_inference_steps": 2, "seed": 1}
PICTURE = base64.b64encode(png(32, 32)).decode()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("net")
    controlnet(1).save_pretrained(folder)
    omni = AsyncOmni(tiny(), controlnet=f"canny={folder}")
    with running(omni) as server:
        yield server
    omni.omni.close()


def test_a_request_with_a_controlnet_draws_another_picture(live: Live) -> None:
    with live.http() as http:
        bodies: list[dict[str, Any]] = [{}, {"controlnet": {"name": "canny", "image": PICTURE, "scale": 0.8}}]
        made = [http.post("/v1/images/generations", json={**BODY, **one}).json()["data"][0] for one in bodies]
    assert made[0]["b64_json"] != made[1]["b64_json"]


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"name": "pose", "image": PICTURE}, 404, "known are canny"),
        ({"name": "canny"}, 400, "has no image"),
        ({"name": "canny", "image": "/etc/hostname"}, 400, "base64"),
        ({"name": "canny", "image": PICTURE, "scale": "much"}, 400, "scale"),
    ],
)
def test_what_is_wrong_is_said(live: Live, given: dict[str, Any], status: int, said: str) -> None:
    with live.http() as http:
        answer = http.post("/v1/images/generations", json={**BODY, "controlnet": given})
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
