"""The cost model's promises: what it learns, when it widens and when it doesn't; nothing here needs torch."""

from collections.abc import Callable
from pathlib import Path

import pytest

from interlace.engine.costs import cost_file
from interlace.engine.policy.cost import CostModel


def learned(seconds: Callable[[int], float], rows: tuple[int, ...] = (1, 2, 4, 8, 16)) -> CostModel:
    cost = CostModel()
    for count in rows:
        for _ in range(32):
            cost.observe("s", count, seconds(count))
    return cost


def test_work_that_costs_the_same_whatever_the_rows_is_shared_as_widely_as_it_can() -> None:
    cost = learned(lambda rows: 1.0)
    assert [cost.best_rows("s", n) for n in (1, 3, 5, 16)] == [1, 3, 5, 16]


def test_work_that_saturates_the_device_runs_one_at_a_time() -> None:
    assert learned(lambda rows: 0.5 * rows).best_rows("s", 16) == 1


def test_a_forward_takes_as_many_rows_as_still_pay() -> None:
    cost = learned(lambda rows: max(4, rows))  # up to four rows are free, from there on each costs its share
    assert cost.best_rows("s", 16) == 4
    assert cost.best_rows("s", 3) == 3


def test_a_forward_that_gets_dearer_with_rows_is_never_widened() -> None:
    assert learned(lambda rows: rows**1.3).best_rows("s", 16) == 1


def test_a_new_shape_runs_as_wide_as_it_can_and_tries_other_row_counts_now_and_then() -> None:
    cost, tried = CostModel(), []
    for _ in range(640):
        rows = cost.best_rows("s", 8)
        tried.append(rows)
        cost.observe("s", rows, 0.1)
    assert tried[:32] == [8] * 32
    assert {4, 8} == set(tried)  # rows of four were twice as dear: fewer still would be dearer
    assert sum(rows != 8 for rows in tried) == 3


@pytest.mark.parametrize(
    "seconds",
    [lambda rows: 0.1, lambda rows: 0.05 + 0.01 * rows, lambda rows: 0.02 * rows, lambda rows: 0.01 * rows**1.3],
    ids=["flat", "affine", "linear", "dearer when wide"],
)
def test_learning_costs_less_than_a_hundredth_from_the_first_forward_on(seconds: Callable[[int], float]) -> None:
    """Beside forwards that are always as wide as they can be."""
    cost, taken, rows_done, wide = CostModel(), 0.0, 0, seconds(16) / 16
    for _ in range(2000):
        rows = cost.best_rows("s", 16)
        cost.observe("s", rows, seconds(rows))
        taken, rows_done = taken + seconds(rows), rows_done + rows
        assert taken <= 1.0101 * rows_done * wide


def test_a_forward_that_gets_dearer_with_rows_is_found_out_soon() -> None:
    cost = CostModel()
    taken = []
    for _ in range(400):
        taken.append(cost.best_rows("s", 16))
        cost.observe("s", taken[-1], 0.01 * taken[-1] ** 1.3)
    assert taken[0] == 16
    assert taken[-1] <= 2


def test_what_an_earlier_process_saw_to_be_far_from_paying_is_not_tried_again(tmp_path: Path) -> None:
    def tried(seconds: Callable[[int], float]) -> set[int]:
        path = tmp_path / "costs.json"
        first = CostModel(path)
        for rows in (1, 2, 4, 8):
            first.know("s", rows, seconds(rows))
        first.save()
        cost, found = CostModel(path), list[int]()
        for _ in range(320):
            found.append(cost.best_rows("s", 8))
            cost.observe("s", found[-1], seconds(found[-1]))
        return set(found)

    assert tried(lambda rows: 1.0) == {8}
    assert tried(lambda rows: 0.2 + 0.2 * rows) == {4, 8}  # 0.25 and 0.225 a row: near enough for another look


def test_noise_does_not_make_an_outlier_the_rule() -> None:
    cost = learned(lambda rows: 1.0)
    cost.observe("s", 16, 30.0)
    assert cost.best_rows("s", 16) == 16


def test_seconds_lie_between_what_was_measured_and_beyond_it_grow_in_proportion() -> None:
    cost = learned(lambda rows: 1.0 + rows, rows=(2, 4))
    assert cost.seconds("s", 3) == pytest.approx(4.0)
    assert cost.seconds("s", 8) == pytest.approx(10.0)
    assert cost.seconds("unknown") is None


def test_costs_outlive_the_process_and_a_broken_file_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "costs.json"
    cost = CostModel(path)
    for rows in (1, 2):
        for _ in range(20):
            cost.observe("s", rows, 0.25 * rows)
    assert cost.best_rows("s", 2) == 1
    cost.save()
    again = CostModel(path)
    assert again.seconds("s", 2) == 0.5
    assert again.best_rows("s", 2) == 2  # every process takes a look for itself before it narrows
    for _ in range(4):
        again.observe("s", 2, 0.5)
    assert again.best_rows("s", 2) == 1
    for text in ("{", "[1]", '{"s": {"x": 1}}', '{"s": 3}', '{"s": {"1": "a"}}'):
        path.write_text(text)
        assert CostModel(path).seconds("s") is None


def test_what_a_busy_machine_measured_is_brought_to_the_speed_of_today(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    busy = CostModel(path)
    for rows, seconds in ((1, 5.0), (4, 8.0), (8, 10.0)):
        busy.know("s", rows, seconds)
    busy.save()
    quiet = CostModel(path)
    quiet.know("s", 4, 0.8)
    assert quiet.seconds("s", 4) == 0.8
    assert quiet.seconds("s", 8) == pytest.approx(1.0)
    assert quiet.seconds("s", 1) == pytest.approx(0.5)


def test_what_is_well_known_is_looked_at_again_now_and_then() -> None:
    cost = CostModel()
    for _ in range(9):
        assert cost.wanted("s", 4)
        cost.observe("s", 4, 9.0)
    for _ in range(200):
        if cost.wanted("s", 4):
            cost.observe("s", 4, 1.0)
    assert cost.seconds("s", 4) == 1.0


def test_a_busy_moment_does_not_narrow_forwards_for_ever() -> None:
    cost, planned = CostModel(), list[int]()
    for rows in (1, 2, *[4] * 11):
        cost.know("s", rows, 0.1 + 0.05 * rows if rows < 4 else 4.0)  # others had the machine whenever four ran
    for _ in range(4000):
        planned.append(cost.best_rows("s", 4))
        cost.observe("s", planned[-1], 0.1 + 0.05 * planned[-1])
    assert planned[0] < 4
    assert set(planned[-15:-1]) == {4}


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cost = CostModel(tmp_path / "file" / "costs.json")
    cost.observe("s", 1, 1.0)
    cost.save()


def test_costs_are_kept_apart_by_device_model_precision_and_torch() -> None:
    files = {
        cost_file(*names, environ={"INTERLACE_CACHE_DIR": "/c"})
        for names in (("cpu", "m", "float32", "2.9"), ("gpu", "m", "float32", "2.9"), ("cpu", "n", "float32", "2.9"),
                      ("cpu", "m", "bfloat16", "2.9"), ("cpu", "m", "float32", "2.10"))
    }  # fmt: skip
    assert len(files) == 5
    assert all(str(file).startswith("/c/costs/") for file in files)
