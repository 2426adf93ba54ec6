"""bulk/selection.py and bulk/columns.py: which rows are used, and how columns of other names are read."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace.adapters import LoraChoice
from interlace.bulk.input.columns import Columns
from interlace.bulk.input.rows import BadRow, Row, Rows
from interlace.bulk.input.selection import Condition, Selection
from interlace.bulk.output.names import NameTable
from interlace.cli.flags.bulk import SelectFlags
from interlace.cli.rows import open_rows, prompt_rows
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

TEN = [f"prompt {number}" for number in range(10)]


def chosen(prompts: list[str], **flags: Any) -> list[str]:
    rows = prompt_rows(prompts, SamplingParams(height=512), SelectFlags(**flags))
    return [row.prompt for row in rows if isinstance(row, Row)]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prompts_of(place: Path, **flags: Any) -> list[str | None]:
    return [row.prompt for row in open_rows(place, SamplingParams(height=512), SelectFlags(**flags))]


bounds = st.none() | st.integers(-15, 15)


@given(bounds, bounds, st.none() | st.integers(1, 4))
def test_rows_are_chosen_like_a_slice(start: int | None, stop: int | None, step: int | None) -> None:
    parts = ["" if part is None else str(part) for part in (start, stop, step)]
    assert chosen(TEN, rows=":".join(parts)) == TEN[start:stop:step]


def test_chosen_rows_keep_their_ids() -> None:
    rows = prompt_rows(TEN, SamplingParams(), SelectFlags(rows="3:5"))
    assert [row.id for row in rows] == ["000003", "000004"]


@pytest.mark.parametrize("rows", ["5", "a:b", "1:2:0", "1:2:-1", "1:2:3:4", "1;2", ""])
def test_a_slice_that_is_none_is_refused(rows: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected START:STOP"):
        chosen(TEN, rows=rows)


@pytest.mark.parametrize(
    ("text", "cell", "holds"),
    [
        ("height >= 512", 512, True),
        ("height >= 512", "512", True),
        ("height>=512", 511.5, False),
        ("height < 512", "tall", False),
        ("height != 512", None, False),
        ("height != 512", "tall", True),
        ("prompt ~ Circle", "a red CIRCLE", True),
        ("prompt ~ a b", "xa by", True),
        ("prompt ~ 3", 3, True),
        ("split == train", "train", True),
        ("split == 'train'", "train", True),
        ("split != train", "test", True),
        ("split == 5", "5", True),
        ("split == '5'", "5.0", False),
        ("name < 'm'", "anna", True),
        ("size == 5", True, False),
        ("size == nan", 5, False),
    ],
)
def test_conditions(text: str, cell: object, holds: bool) -> None:
    assert Condition.parse(text).holds(cell) is holds


@pytest.mark.parametrize("text", ["", "height", "height >=", ">= 5", "height => 5", "height = 5", "a < b", "a !< 5"])
def test_a_condition_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="--where got"):
        Condition.parse(text)


@given(st.text(max_size=20), st.none() | st.text(max_size=5) | st.floats() | st.integers() | st.lists(st.integers()))
def test_any_text_is_a_condition_or_refused(text: str, cell: object) -> None:
    try:
        condition = Condition.parse(text)
    except InvalidRequestError:
        return
    assert condition.holds(cell) in (True, False)


def test_all_conditions_must_hold_and_the_command_line_fills_in(tmp_path: Path) -> None:
    rows = [{"prompt": "a circle"}, {"prompt": "a circle", "height": 64}, {"prompt": "a star"}]
    path = write(tmp_path / "p.jsonl", *rows)
    assert prompts_of(path, where=["height >= 512", "prompt ~ circle"]) == ["a circle"]
    assert prompts_of(path, where=["height < 512"]) == ["a circle"]
    assert prompts_of(path, where=["prompt ~ circle"], limit=1) == ["a circle"]


def test_a_row_that_can_not_be_read_is_told_whatever_the_condition(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\nbroken\n')
    rows = open_rows(tmp_path / "p.jsonl", SamplingParams(), SelectFlags(where=["prompt == b"]))
    assert [type(row) for row in rows] == [BadRow]


def test_a_condition_on_a_column_that_a_table_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\na\n")
    with pytest.raises(InvalidRequestError, match="no column 'hight'; did you mean height"):
        prompts_of(tmp_path / "p.csv", where=["hight > 5"])


def test_columns_of_other_names_are_read(tmp_path: Path) -> None:
    row = {"caption": "a", "bad": "blurry", "key": 7, "rng": 5, "prompt": "not this"}
    flags = {"prompt_column": "caption", "negative_prompt_column": "bad", "id_column": "key", "column": ["seed=rng"]}
    for path in (write(tmp_path / "p.jsonl", row), tmp_path / "p.csv"):
        (tmp_path / "p.csv").write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
        (got,) = open_rows(path, SamplingParams(), SelectFlags(**flags))
        assert isinstance(got, Row)
        assert (got.id, got.prompt) == ("7", "a")
        assert got.sampling == SamplingParams(negative_prompt="blurry", seed=5)
    assert prompts_of(path, **flags, where=["prompt == a"]) == ["a"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prompt_column": "captoin"}, "no column 'captoin' for prompt; did you mean caption?"),
        ({}, "unknown column 'caption'; did you mean prompt? --prompt-column caption takes it"),
        ({"ignore_unknown_columns": True}, "--prompt-column caption?"),
        ({"prompt_column": "caption", "column": ["prompt=score"]}, "the column prompt is named twice"),
        ({"column": ["prompt"]}, "expected OURS=THEIRS"),
        ({"column": ["sede=score"]}, "did you mean seed?"),
        ({"prompt_column": "caption"}, "unknown column 'score'"),
        ({"image_columns": ["image"]}, "input_images"),
    ],
)
def test_mapped_columns_are_checked_against_the_header(tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    (tmp_path / "p.csv").write_text("caption,score\na,1\n")
    with pytest.raises(InvalidRequestError) as refused:
        prompts_of(tmp_path / "p.csv", **flags)
    assert words in str(refused.value)


def test_other_columns_may_be_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a", "score": 1})
    assert prompts_of(path, ignore_unknown_columns=True) == ["a"]
    (bad,) = open_rows(path, SamplingParams(), SelectFlags())
    assert isinstance(bad, BadRow)
    assert "--ignore-unknown-columns" in bad.error


def test_a_row_without_the_mapped_column_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"caption": "a"}, {"id": "b"})
    _, bad = open_rows(path, SamplingParams(), SelectFlags(prompt_column="caption"))
    assert isinstance(bad, BadRow)
    assert "the row has no caption (--prompt-column)" in bad.error


def test_rows_name_adapters_in_any_form_and_a_wrong_one_is_that_rows_error(tmp_path: Path) -> None:
    cells = [None, "ink", {"name": "ink", "scale": 0.5}, ["ink", "wash:0.2"], "none", {"name": 3}]
    path = write(tmp_path / "p.jsonl", *({"prompt": "a", "lora": cell} for cell in cells))
    *good, bad = open_rows(path, SamplingParams(lora=(LoraChoice("usual"),)), SelectFlags())
    found = [[(one.name, one.scale) for one in row.sampling.lora or ()] for row in good if isinstance(row, Row)]
    assert found == [[("usual", 1.0)], [("ink", 1.0)], [("ink", 0.5)], [("ink", 1.0), ("wash", 0.2)], []]
    assert isinstance(bad, BadRow)
    assert "expected a name" in bad.error


def test_columns_of_an_edit() -> None:
    columns = Columns(task="edit", theirs={"input_images": ("left", "right")})
    cells = columns.rename({"instruction": "make it blue", "left": "a.png", "right": ["b.png", "c.png"]})
    assert cells == {"prompt": "make it blue", "input_images": ["a.png", "b.png", "c.png"]}
    with pytest.raises(InvalidRequestError, match="a prompt and an instruction"):
        Columns(task="edit").rename({"prompt": "a", "instruction": "b"})
    with pytest.raises(InvalidRequestError, match="is for `interlace edit`"):
        Columns().rename({"prompt": "a", "input_images": "b.png"})


def test_prompts_have_no_columns_to_map() -> None:
    with pytest.raises(InvalidRequestError, match="--prompts-file"):
        prompt_rows(["a"], SamplingParams(), SelectFlags(prompt_column="caption"))


@given(st.lists(st.tuples(st.lists(st.text(max_size=3), max_size=3), st.integers(1, 99)), max_size=40))
def test_a_name_table_agrees_with_a_dictionary(claims: list[tuple[list[str], int]]) -> None:
    table, taken = NameTable(), dict[str, str]()
    for names, line in claims:
        where = f"p:{line}"
        clash = next((name for name in names if name in taken), None)
        assert table.claim(names, where) == (None if clash is None else (clash, taken[clash]))
        if clash is None:
            taken.update(dict.fromkeys(names, where))


def test_a_name_table_grows_and_is_small() -> None:
    tracemalloc.start()
    table = NameTable()
    for number in range(50_000):
        assert table.claim([f"{number:06d}"], f"prompts.jsonl:{number + 1}") is None
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert table.claim(["049999"], "x") == ("049999", "prompts.jsonl:50000")
    assert size / 50_000 < 45  # bytes a name


def test_rows_are_read_again_from_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    rows = Rows.from_file(path, SamplingParams(), Selection.parse("-1:"))
    assert [row.prompt for row in rows] == [row.prompt for row in rows] == ["b"]
