"""Adapters over HTTP: listed, loaded, used by field and as model, unloaded; refusals leave nothing behind."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from interlace import AsyncOmni
from interlace.demo import MODELS
from serve.live import SMALL, Live, picture, running


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("loras")
    own = MODELS["demo"].path / "lora"
    shutil.copy(own / "outline.safetensors", folder / "ink.safetensors")
    (folder / "torn.safetensors").write_bytes((own / "pastel.safetensors").read_bytes()[:500])
    shutil.copy(own / "pastel.safetensors", folder.parent / "outside.safetensors")
    omni = AsyncOmni("demo", lora_dir=str(folder), lora="pastel")
    with running(omni) as server:
        yield server
    omni.omni.close()


def drawn(http: Any, **more: Any) -> bytes:
    """The pixels; what a file says of itself names the adapter."""
    body = {"prompt": "a red circle", "seed": 3, **SMALL, **more}
    answer = http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    return bytes(picture(answer.json()["data"][0]["b64_json"]).tobytes())


def loaded(http: Any) -> dict[str, bool]:
    return {one["id"]: one["loaded"] for one in http.get("/v1/loras").json()["data"]}


def test_loading_using_and_unloading(live: Live) -> None:
    with live.http() as http:
        assert loaded(http) == {"ink": False, "outline": False, "pastel": True, "torn": False}
        assert http.post("/v1/load_lora_adapter", json={"lora_name": "ink"}).status_code == 200
        assert loaded(http)["ink"]
        plain, inked = drawn(http), drawn(http, lora={"name": "ink", "scale": 0.9})
        assert plain != inked
        assert drawn(http, lora="ink:0.9") == inked
        assert drawn(http, model="pastel") == drawn(http, lora="pastel") != plain
        assert "pastel" in [one["id"] for one in http.get("/v1/models").json()["data"]]
        brought = {"lora_name": "wash", "lora_path": "ink.safetensors"}
        assert http.post("/v1/load_lora_adapter", json=brought).status_code == 200
        assert drawn(http, lora={"name": "wash", "scale": 0.9}) == inked
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "wash"}).status_code == 200
        assert "wash" not in loaded(http)
        assert drawn(http) == plain


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("images/generations", {"prompt": "a", "lora": "chalk", **SMALL}, 404, "known are"),
        ("images/generations", {"prompt": "a", "lora": "torn", **SMALL}, 400, "can't read"),
        ("load_lora_adapter", {"lora_name": "torn"}, 400, "can't read"),
        ("load_lora_adapter", {"lora_name": "x", "lora_path": "../outside.safetensors"}, 400, "under --lora-dir"),
        ("load_lora_adapter", {"lora_name": "x", "lora_path": "/etc/hostname"}, 400, "under --lora-dir"),
        ("unload_lora_adapter", {"lora_name": "chalk"}, 404, "known are"),
    ],
)
def test_what_can_not_be_is_refused(live: Live, path: str, body: dict[str, Any], status: int, said: str) -> None:
    with live.http() as http:
        before = loaded(http)
        answer = http.post(f"/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]["message"]
        assert loaded(http) == before
