"""Row buckets: forwards of one, two, four, ... rows and no others, each request as alone."""

from typing import Any

import torch

from interlace import Engine
from tests.test_families import TOLERANCE, difference, stock
from tests.zoo import FAMILIES


def requests(count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        kwargs = FAMILIES["flux"].requests()[0]
        made.append({**kwargs, "num_inference_steps": 2 + number, "generator": torch.Generator().manual_seed(number)})
    return made


def test_forwards_are_filled_up_to_few_row_counts_and_each_request_is_as_alone() -> None:
    pipeline = FAMILIES["flux"].build()
    alone = [stock(pipeline, kwargs) for kwargs in requests(5)]
    with Engine(pipeline, row_buckets=True, join_equal=False, max_batch_rows=None) as engine:
        engine.map(requests(5))
        together = engine.map(requests(5))
        widths = engine.stats()["widths"]["transformer"]
    assert set(widths) <= {1, 2, 4, 8}
    assert {4, 8} <= set(widths)
    assert max(map(difference, together, alone)) < TOLERANCE


def test_no_more_rows_than_allowed() -> None:
    with Engine(FAMILIES["flux"].build(), row_buckets=True, join_equal=False, max_batch_rows=3) as engine:
        engine.map(requests(5))
        assert max(engine.stats()["widths"]["transformer"]) == 3
