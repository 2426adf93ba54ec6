"""What an engine tells of itself: whole at any moment, from any thread, and the counts are those of what ran."""

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from interlace import Engine
from interlace.engine.calls.counts import ForwardCounts
from interlace.engine.policy import cost
from interlace.engine.policy.cost import CostModel
from tests.zoo import FAMILIES
from tests.zoo.family import PROMPTS


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_statistics_can_be_asked_for_while_requests_run(restless: None) -> None:
    layers = nn.ModuleDict({f"layer{i}": nn.Linear(i + 1, 1) for i in range(60)})  # new tables' entries all the time

    def run(first: int) -> float:
        return sum(float(layers[f"layer{i}"](torch.ones(1, i + 1)).detach()) for i in range(first, 60))

    failed: list[BaseException] = []
    over = threading.Event()

    def ask(engine: Engine) -> None:
        try:
            while not over.is_set():
                counts = engine.stats()
                assert counts["forwards"].keys() == counts["widths"].keys()
        except BaseException as error:
            failed.append(error)

    with Engine.over(run, dict(layers), max_num_seqs=4) as engine:
        threads = [threading.Thread(target=ask, args=(engine,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            outputs = engine.map([{"first": i % 50} for i in range(100)])
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not any(isinstance(one, BaseException) for one in outputs)
        assert failed == []
        counts = engine.statistics()
    assert counts.requests.ok == 100
    assert sum(counts.forwards.values()) <= sum(60 - i % 50 for i in range(100))


def test_a_cost_model_describes_itself_while_it_learns(restless: None) -> None:
    model, failed, over = CostModel(), list[BaseException](), threading.Event()

    def learn() -> None:
        for number in range(3000):
            model.observe(f"shape {number % 700}", 1 + number % 23, 0.01)
        over.set()

    thread = threading.Thread(target=learn)
    thread.start()
    try:
        while not over.is_set():
            model.describe()
    except RuntimeError as error:
        failed.append(error)
    thread.join()
    assert failed == []


def test_plans_are_made_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plan = cost._planned
    monkeypatch.setattr(cost, "_planned", lambda curve, rows: made.append(rows) or plan(curve, rows))
    model = CostModel()
    model.know("s", 4, 0.2)
    assert [model.describe()["s"]["best_rows"] for _ in range(5)] == [4] * 5
    assert made == [4]
    model.know("s", 8, 0.8)
    assert model.describe()["s"]["ms"] == {"4": 200.0, "8": 800.0}
    assert len(made) == 2


def test_the_padding_of_texts_in_a_shared_forward_is_counted_by_rows() -> None:
    counts = ForwardCounts()
    calls = [SimpleNamespace(rows=2, texts=SimpleNamespace(length=12)), SimpleNamespace(rows=1, texts=None),
             SimpleNamespace(rows=1, texts=SimpleNamespace(length=16))]  # fmt: skip
    counts.texts(calls)  # type: ignore[arg-type]
    assert (counts.statistics().text_tokens, counts.statistics().padded_tokens) == (3 * 16, 2 * (16 - 12))


def test_the_engine_tells_of_padding_and_of_none_where_texts_are_equal() -> None:
    pipeline, kwargs = FAMILIES["qwen-image"].build(), FAMILIES["qwen-image"].requests()[0]
    kwargs |= {"num_inference_steps": 2, "output_type": "np"}
    with Engine(pipeline, verify_fusion="off", max_batch_rows=None) as engine:
        engine.map([{**kwargs, "prompt": PROMPTS[0]}] * 2)
        equal = engine.stats()["padding"]
        engine.map([{**kwargs, "prompt": PROMPTS[0]}, {**kwargs, "prompt": PROMPTS[2]}])
        different = engine.stats()["padding"]
    assert equal["text_tokens"] > 0
    assert equal["padded_tokens"] == 0
    assert different["padded_tokens"] > 0
    assert different["text_tokens"] > different["padded_tokens"]
