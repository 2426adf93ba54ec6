"""Previews are made by several workers, and told in the order of their steps."""

import threading
from typing import Any

import pytest

from interlace import Omni
from interlace.request import Progress


def test_a_preview_that_takes_long_comes_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    with Omni("demo") as omni:
        previewer: Any = omni.pipeline.links[0].stage._previewer
        stock, later_made, made = previewer.picture, threading.Event(), iter(range(100))

        def picture(*args: Any) -> Any:
            if next(made) == 0:
                assert later_made.wait(120)
            else:
                later_made.set()
            return stock(*args)

        monkeypatch.setattr(previewer, "picture", picture)
        request = {"prompt": "a red circle", "height": 64, "width": 64, "num_inference_steps": 6}
        output = omni.submit(request, on_progress=told.append, preview_every=2).result(120)
    assert output.error is None
    assert [progress.step for progress in told if progress.preview is not None] == [2, 4]
