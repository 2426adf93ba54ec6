"""Several models behind one server: chosen by name, loaded when they are asked for, unloaded to make room."""

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from interlace import AsyncOmni, Omni
from interlace.cli.flags.several import SeveralFlags, models_as_words
from interlace.cli.help.names import translate
from interlace.cli.main import app
from interlace.cli.serve import ServeFlags, _makes
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.serve.app import create_app_over
from interlace.serve.http.run import make_server
from interlace.serve.jobs.repository import ModelRepository, Offer
from interlace.serve.settings import ServeSettings
from serve.live import WAIT_S, Live, picture, until
from tests.zoo import FAMILIES

KINDS = {"first": "sd15-ddim", "second": "sdxl", "third": "flux"}
ASK = {"size": "32x32", "n": 1}
STEPS = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, family in KINDS.items():
        FAMILIES[family].build().save_pretrained(root / name)
    return {name: root / name for name in KINDS}


class Counted:
    """Opens tiny models; tells how many are open, at most, and whether weights were let go."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders, self.loads = folders, dict.fromkeys(folders, 0)
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0
        self.gate: Callable[[], Any] = lambda: None

    def offers(self) -> list[Offer]:
        return [Offer(str(self.folders[name]), lambda name=name: self._open(name)) for name in self.folders]

    def _open(self, name: str) -> tuple[AsyncOmni, None]:
        self.gate()
        self.loads[name] += 1
        model = load_model(str(self.folders[name]))
        self.alive.add(model.pipeline)
        gc.collect()
        self.most = max(self.most, len(self.alive))
        return AsyncOmni(model), None


@contextmanager
def several(counted: Counted, **options: Any) -> Iterator[Live]:
    settings = ServeSettings(port=0, warmup=False, drain_s=5.0)
    models = ModelRepository(counted.offers(), settings, **options)
    server = make_server(create_app_over(models, settings), settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.url)
    live = Live(server)
    try:
        with live.http() as http:
            until(lambda: http.get("/health").status_code == 200)
        yield live
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        models.close()
        assert not thread.is_alive()


def test_thirty_requests_to_three_models_where_two_may_be_loaded(folders: dict[str, Path]) -> None:
    counted, wanted = Counted(folders), {}
    for name, path in folders.items():
        with Omni(str(path)) as alone:
            params = {"height": 32, "width": 32, "seed": 7, **STEPS}
            wanted[name] = np.asarray(alone.generate({"prompt": "a star", **params})[0].images[0], dtype=int)
    order = [*KINDS] * 10
    random.Random(3).shuffle(order)
    with several(counted, max_loaded=2) as live:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=240)
        assert {str(path) for path in folders.values()} <= {one.id for one in client.models.list()}

        def ask(name: str) -> np.ndarray:
            made = client.images.generate(
                model=str(folders[name]), prompt="a star", **ASK, extra_body={**STEPS, "seed": 7}
            )
            return np.asarray(picture(made.data[0].b64_json), dtype=int)

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, order))
        for name, got in zip(order, answers, strict=True):
            assert np.abs(got - wanted[name]).max() <= 1, name
        with live.http() as http:
            told = {one["id"]: one for one in http.get("/v1/stats").json()["models"]}
        assert {Path(one).name: facts["loads"] for one, facts in told.items()} == counted.loads
        assert sum(facts["state"] == "loaded" for facts in told.values()) <= 2
    assert counted.most <= 2
    assert sum(counted.loads.values()) < 30, "a model that is loaded is used again"


def test_a_request_waits_for_its_model_and_says_so(folders: dict[str, Path]) -> None:
    counted, go = Counted(folders), threading.Event()
    second = str(folders["second"])
    with several(counted, max_loaded=1) as live, ThreadPoolExecutor(1) as pool, live.http() as http:
        counted.gate = lambda: go.wait(300)
        body = {"model": second, "prompt": "a star", **ASK, **STEPS}
        asked = pool.submit(http.post, "/v1/images/generations", json=body, headers={"X-Request-Id": "mine"})
        with live.http() as other:
            until(lambda: other.get("/v1/requests/mine").json().get("status") == "loading")
            listed = other.get("/v1/requests").json()["data"]
            assert [(one["id"], one["status"], one["model"]) for one in listed] == [("mine", "loading", second)]
            assert other.get("/info").status_code == 200, "the page's first question, while nothing is loaded"
            assert other.get("/metrics").status_code == 200
        go.set()
        assert asked.result(120).status_code == 200
        assert counted.loads == {"first": 1, "second": 1, "third": 0}


def test_what_cannot_be_loaded_is_that_requests_error(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    counted = Counted({**folders, "broken": tmp_path})
    with several(counted, max_loaded=1, budget=64 * 2**20) as live, live.http() as http:

        def ask(model: str) -> Any:
            return http.post("/v1/images/generations", json={"model": model, "prompt": "a", **ASK, **STEPS})

        broken = ask(str(tmp_path))
        assert (broken.status_code, broken.json()["error"]["code"]) == (503, "model_load_failed")
        nobody = ask("nobody")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "model_not_found")
        assert str(folders["second"]) in nobody.json()["error"]["message"]
        assert ask(str(folders["first"])).status_code == 200
        both = http.post("/generate", json={"prompts": [{"prompt": "a", "model": "x"}, {"prompt": "b", "model": "y"}]})
        assert "expected one in a request" in both.json()["error"]["message"]


def test_more_weights_than_the_budget_are_refused_with_the_numbers(folders: dict[str, Path]) -> None:
    counted = Counted(folders)
    offers = counted.offers()
    offers[2] = Offer(offers[2].name, offers[2].open, num_bytes=2**30)
    counted.offers = lambda: offers  # type: ignore[method-assign]
    with several(counted, budget=2**29) as live, live.http() as http:
        got = http.post("/v1/images/generations", json={"model": offers[2].name, "prompt": "a", **ASK, **STEPS})
        assert (got.status_code, got.json()["error"]["code"]) == (503, "model_too_large")
        assert "1.0 GiB" in got.json()["error"]["message"]
        assert counted.loads == {"first": 1, "second": 1, "third": 0}, "what fits is loaded at the start"


def test_each_model_has_flags_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models:\n- demo\n- {model: other, dtype: bfloat16, max_num_seqs: 3, edit_model: e}\n")
    first, second = SeveralFlags(models_config=path).each((), ServeFlags())
    assert (first.name, first.engine.max_num_seqs) == ("demo", 16)
    assert (second.name, second.model.torch_dtype, second.engine.max_num_seqs) == ("other", "bfloat16", 3)
    assert (first.edit_model, second.edit_model) == (None, "e")
    named = SeveralFlags().each(("a", "b"), ServeFlags())
    assert [one.name for one in named] == ["a", "b"]
    path.write_text("models:\n- {model: other, max_num_seq: 3}\n")
    with pytest.raises(InvalidRequestError, match="did you mean 'max_num_seqs'"):
        SeveralFlags(models_config=path).each((), ServeFlags())
    with pytest.raises(InvalidRequestError, match="expected one"):
        SeveralFlags(models_config=path).each(("a",), ServeFlags())
    path.write_text("- a\n")
    with pytest.raises(InvalidRequestError, match="expected `models:`"):
        SeveralFlags(models_config=path).each((), ServeFlags())


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("serve --model-name a --model-name=b --port 1", "serve a b --port 1"),
        ("serve a --port 1 --model-name b", "serve a b --port 1"),
        ("serve a b --model-name c", "serve a b c"),
        ("serve --model-name a --ar-input-modalities text image", "serve a --ar-input-modalities text image"),
        ("serve --port 1 --model-name", "serve --port 1 --model-name"),
        ("serve --model-name --port 1", "serve --model-name --port 1"),
        ("serve -- --model-name a", "serve -- --model-name a"),
        ("t2i x --model-name a", "t2i x --model-name a"),
    ],
)
def test_models_of_flags_are_words(line: str, becomes: str) -> None:
    assert models_as_words(line.split()) == becomes.split()


def test_one_model_given_as_a_flag_is_the_model_of_the_word() -> None:
    parsed = [
        app["serve"].parse_args(models_as_words(translate(app, line.split()))[1:])[1].arguments
        for line in ("serve --model demo --port 1", "serve demo --port 1")
    ]
    assert parsed[0] == parsed[1]
    assert parsed[0]["models"] == ("demo",)


class Mixed(Counted):
    """Models that make pictures, films and sound, as `interlace serve` offers them."""

    def offers(self) -> list[Offer]:
        flags = SeveralFlags().each([str(folder) for folder in self.folders.values()], ServeFlags())
        opens = {str(folder): name for name, folder in self.folders.items()}
        return [Offer(one.name, lambda n=opens[one.name]: self._open(n), makes=_makes(one)) for one in flags]


MIXED = {"films": "wan", "drawing": "sd15-ddim", "sounds": "stable-audio", "more-films": "ltx"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mixed")
    for name, family in MIXED.items():
        FAMILIES[family].build().save_pretrained(root / name)
    return {name: root / name for name in MIXED}


@pytest.mark.parametrize("max_loaded", [1, None])
def test_without_a_name_the_first_model_that_makes_what_is_asked_for_does(
    mixed: dict[str, Path], max_loaded: int | None
) -> None:
    """Also while that model isn't loaded: its small files say what it makes."""
    film = {"prompt": "a cat", "size": "32x32", "num_frames": 5, **STEPS}
    with several(Mixed(mixed), max_loaded=max_loaded) as live, live.http() as http:
        drawn = http.post("/v1/images/generations", json={"prompt": "a star", **ASK, **STEPS})
        assert (drawn.status_code, drawn.json()["model"]) == (200, str(mixed["drawing"]))
        heard = http.post("/v1/audio/generate", json={"prompt": "rain", "seconds": 0.5, **STEPS})
        assert (heard.status_code, heard.content[:4]) == (200, b"RIFF")
        made = http.post("/v1/videos", json=film).json()
        assert made["model"] == str(mixed["films"])
        named = http.post("/v1/videos", json={**film, "model": str(mixed["more-films"])}).json()
        assert named["model"] == str(mixed["more-films"])
        refused = http.post("/v1/videos", json={**film, "model": str(mixed["drawing"])}).json()["error"]
        assert refused["message"] == f"{mixed['drawing']} makes pictures; use /v1/images/generations"
        refused = http.post("/v1/videos", json={**film, "size": "40x32"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "size")
        for job in (made, named):
            until(lambda job=job: http.get(f"/v1/videos/{job['id']}").json()["status"] == "completed")


def test_where_no_model_makes_it_the_first_says_what_it_makes(folders: dict[str, Path]) -> None:
    with several(Mixed(folders), max_loaded=1) as live, live.http() as http:
        refused = http.post("/v1/videos", json={"prompt": "a cat"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_video_model")
        assert refused.json()["error"]["message"] == f"{folders['first']} makes pictures; use /v1/images/generations"


def test_a_name_that_stands_for_any_model_is_of_the_first_that_makes_it() -> None:
    offers = [Offer("pictures", _not_opened), Offer("films", _not_opened, makes="film")]
    models = ModelRepository(offers, ServeSettings(model_alias=("sora-2",)))
    chosen = [models._slot_of(name, "film").offer.name for name in ("sora-2", None, "pictures")]
    assert chosen == ["films", "films", "pictures"], "a model that is named is taken, and says itself what it makes"
    assert models._slot_of("sora-2", "sound").offer.name == "pictures"


def _not_opened() -> Any:
    raise AssertionError("nothing is loaded to choose")
