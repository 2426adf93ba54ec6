"""One pair of engines and one server for most of these tests."""

from collections.abc import Iterator

import pytest

from interlace import AsyncOmni
from interlace.models.loader import load_model
from interlace.serve.jobs.models import editing_sibling
from serve.live import ENDLESS, Live, running, until


@pytest.fixture(scope="session")
def engines() -> Iterator[tuple[AsyncOmni, AsyncOmni]]:
    model = load_model("demo")
    sibling = editing_sibling(model)
    assert sibling is not None
    draw, edit = AsyncOmni(model), AsyncOmni(sibling)
    yield draw, edit
    draw.omni.close()
    edit.omni.close()


@pytest.fixture(scope="session")
def server(engines: tuple[AsyncOmni, AsyncOmni]) -> Iterator[Live]:
    with running(*engines, warmup=True) as live:
        with live.http() as http:
            until(lambda: http.get("/health").status_code == 200)
        yield live


@pytest.fixture(scope="session")
def patient(engines: tuple[AsyncOmni, AsyncOmni]) -> Iterator[Live]:
    """The same models behind a server that takes `ENDLESS` requests, which are under way until they are aborted."""
    with running(*engines, max_steps=ENDLESS["num_inference_steps"]) as live:
        yield live
