"""bulk/rows.py and bulk/formats: every format gives the same rows, bad rows are told with their place."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from interlace.bulk.input.columns import Columns
from interlace.bulk.input.formats import Record
from interlace.bulk.input.formats import json as json_format
from interlace.bulk.input.rows import BadRow, Row, Rows, image_seed, read_row
from interlace.bulk.input.selection import EVERY_ROW, Selection
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams


def read(path: Path, text: str | bytes, **options: Any) -> list[Row | BadRow]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(Rows.from_file(path, options.pop("defaults", SamplingParams()), **options))


def only(rows: list[Row | BadRow]) -> Row:
    (row,) = rows
    assert isinstance(row, Row), row
    return row


def why(row: Row | BadRow) -> str:
    assert isinstance(row, BadRow), row
    return f"{row.where}: {row.error}"


def test_each_format_gives_the_same_rows(tmp_path: Path) -> None:
    values = [{"prompt": "a, b", "seed": 7, "height": 64, "guidance_scale": 2.5}, {"prompt": "é 圆", "id": "x-1"}]
    table = 'prompt,seed,height,guidance_scale,id\n"a, b",7,64,2.5,\né 圆,,,,x-1\n'
    forms = {
        "p.jsonl": "\n".join(json.dumps(value) for value in values),
        "q.jsonl": "\n\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n\n",
        "p.json": json.dumps(values, indent=2),
        "q.json": "\n".join(json.dumps(value) for value in values),
        "p.csv": table,
        "q.csv": "\ufeff" + table.replace("\n", "\r\n"),
        "p.tsv": table.replace('"a, b"', "a| b").replace(",", "\t").replace("|", ","),
    }
    results = {}
    for name, text in forms.items():
        rows = read(tmp_path / name, text)
        assert all(isinstance(row, Row) for row in rows), (name, rows)
        results[name] = [(row.id, row.prompt, row.sampling) for row in rows if isinstance(row, Row)]
    expected = [
        ("000000", "a, b", SamplingParams(seed=7, height=64, guidance_scale=2.5)),
        ("x-1", "é 圆", SamplingParams()),
    ]
    assert results == dict.fromkeys(forms, expected)


def test_text_files_have_one_prompt_a_line(tmp_path: Path) -> None:
    rows = read(tmp_path / "p.txt", "\ufeffa red circle\r\n\n  a blue star \n")
    assert [(row.prompt, row.where.rsplit(":", 1)[1]) for row in rows] == [("a red circle", "1"), ("a blue star", "3")]


def test_strings_are_prompts_in_json(tmp_path: Path) -> None:
    assert [row.prompt for row in read(tmp_path / "p.json", '["a", {"prompt": "b"}]')] == ["a", "b"]
    assert [row.prompt for row in read(tmp_path / "p.jsonl", '"a"\n{"prompt": "b"}')] == ["a", "b"]


def test_a_row_wins_over_the_command_line(tmp_path: Path) -> None:
    defaults = SamplingParams(height=32, num_inference_steps=4, negative_prompt="blurry")
    row = only(read(tmp_path / "p.jsonl", '{"prompt": "a", "height": 64, "negative_prompt": null}', defaults=defaults))
    assert row.sampling == SamplingParams(height=64, num_inference_steps=4, negative_prompt="blurry")


@pytest.mark.parametrize("written", ["20", "20.0", '"20"', '"20.0"'])
def test_whole_numbers_may_be_written_in_any_way(tmp_path: Path, written: str) -> None:
    row = only(read(tmp_path / "p.jsonl", f'{{"prompt": "a", "num_inference_steps": {written}}}'))
    assert row.sampling.num_inference_steps == 20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (np.int64(7), "7"),
        (np.float32(2), "2"),
        (2**60 + 1, str(2**60 + 1)),
        ("1.0", "1.0"),
        (None, "000005"),
        (float("nan"), "000005"),
        (np.float32("nan"), "000005"),
    ],
)
def test_an_id_may_be_a_whole_number_of_any_kind_or_missing(value: Any, expected: str) -> None:
    row = read_row(Record("p:6", {"prompt": "a", "id": value}), "000005", SamplingParams())
    assert isinstance(row, Row), row
    assert (row.id, row.is_numbered) == (expected, expected == "000005")


@pytest.mark.parametrize("value", [1.5, float("inf"), True, np.True_, [1]])
def test_an_id_that_is_no_whole_number_is_refused(value: Any) -> None:
    row = read_row(Record("p:6", {"prompt": "a", "id": value}), "000005", SamplingParams())
    assert why(row) == f"p:6: the id is {value!r}; expected a text or a whole number"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "hight": 64}', "did you mean height?"),
        ('{"prompt": "a", "steps": 4}', "did you mean num_inference_steps?"),
        ('{"prompt": "a", "Seed": 4}', "did you mean seed?"),
        ('{"prompt": "a", "zzz": 4}', "known are"),
        ('{"prompt": "a", "height": 0}', "height is 0"),
        ('{"prompt": "a", "height": "tall"}', "height is 'tall'"),
        ('{"prompt": "a", "height": true}', "height is True"),
        ('{"prompt": "a", "guidance_scale": NaN}', "guidance_scale is nan"),
        ('{"prompt": "a", "num_images": 100000}', "at most"),
        ('{"prompt": "a", "negative_prompt": 3}', "negative_prompt"),
        ('{"prompt": "a"', "not valid JSON"),
        ("[1]", "expected an object"),
        ("{}", "no prompt"),
        ('{"prompt": null}', "no prompt"),
        ('{"prompt": "  "}', "prompt is empty"),
        ('{"prompt": ["a"]}', "expected a text"),
        ('{"prompt": "\\ud800"}', "Unicode"),
        ('{"prompt": "a", "id": "../a"}', "path separator"),
        ('{"prompt": "a", "id": "a\\\\b"}', "path separator"),
        ('{"prompt": "a", "id": ".a"}', "dot"),
        ('{"prompt": "a", "id": "a\\u0000"}', "control"),
        ('{"prompt": "a", "id": "a\\u009fb"}', "control"),
        ('{"prompt": "a", "id": ""}', "empty"),
        ('{"prompt": "a", "id": 1.5}', "expected a text"),
        (json.dumps({"prompt": "a", "id": "é" * 101}, ensure_ascii=False), "longer than 200 bytes"),
    ],
)
def test_a_bad_row_is_told_with_its_line_and_the_next_is_read(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "p.jsonl"
    first, bad, last = read(path, f'{{"prompt": "one"}}\n{line}\n{{"prompt": "three"}}\n')
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert last.id == "000002"
    assert f"{path}:2: " in why(bad)
    assert words in why(bad)


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    for name, text in {
        "p.jsonl": b'{"prompt": "a"}\n{"prompt": "\xff"}\n{"prompt": "c"}',
        "p.txt": b"a\n\xff\nc",
        "p.csv": b"prompt\na\n\xff\nc\n",
        "p.json": b'["a",\n"\xff",\n"c"]',
    }.items():
        rows = read(tmp_path / name, text)
        assert [type(row) for row in rows] == [Row, BadRow, Row], name
        assert "UTF-8" in why(rows[1])


def test_a_table_with_wrong_columns_is_refused_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean prompt"):
        read(tmp_path / "a.csv", "promt,seed\na,1\n")
    with pytest.raises(InvalidRequestError, match="no column prompt"):
        read(tmp_path / "b.csv", "id,seed\na,1\n")
    with pytest.raises(InvalidRequestError, match="named twice"):
        read(tmp_path / "c.csv", "prompt,prompt\na,b\n")


def test_a_table_row_with_too_many_cells_is_a_bad_row_with_its_own_line(tmp_path: Path) -> None:
    rows = read(tmp_path / "p.csv", 'prompt,seed\n"two\nlines",1\na, b, c\nlast,2\n')
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert "p.csv:4: 3 cells under 2" in why(rows[1])
    assert rows[0].prompt == "two\nlines"


def test_a_broken_json_array_gives_the_rows_before_the_break(tmp_path: Path) -> None:
    rows = read(tmp_path / "p.json", '[{"prompt": "a"},\n{"prompt": "b"},\n{"prompt" "c"}]')
    assert [type(row) for row in rows] == [Row, Row, BadRow]
    assert "p.json:3: not valid JSON" in why(rows[2])
    assert "cut off" in why(read(tmp_path / "q.json", '["a"')[1])


@pytest.mark.parametrize("name", ["p.docx", "p", "missing.jsonl"])
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str) -> None:
    if "missing" not in name:
        (tmp_path / name).write_text("a")
    with pytest.raises(InvalidRequestError):
        list(Rows.from_file(tmp_path / name, SamplingParams()))


def test_equal_file_names_are_refused_for_the_later_row(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "id": "x", "num_images": 2},
        {"prompt": "b", "id": "x_01"},
        {"prompt": "c", "id": "x"},
        {"prompt": "d", "id": "000004"},
        {"prompt": "e"},
    ]
    rows = read(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)))
    assert [type(row) for row in rows] == [Row, BadRow, Row, Row, BadRow]
    assert "p.jsonl:1 writes x_01.png already" in why(rows[1])


def test_limit_takes_rows_from_the_start(tmp_path: Path) -> None:
    assert [row.prompt for row in read(tmp_path / "p.txt", "a\nb\nc", selection=Selection(limit=2))] == ["a", "b"]


def test_seeds_depend_on_the_row_and_the_image_only(tmp_path: Path) -> None:
    a, b = {"prompt": "a", "id": "a", "num_images": 3}, {"prompt": "b", "id": "b", "seed": 5, "num_images": 2}
    seeds = []
    for order in ([a, b], [b, a]):
        rows = read(tmp_path / "p.jsonl", "\n".join(map(json.dumps, order)))
        seeds.append({job.name: job.sampling.seed for row in rows if isinstance(row, Row) for job in row.jobs(3)})
    assert seeds[0] == seeds[1]
    assert seeds[0]["b_00"] == 5
    assert seeds[0]["b_01"] == 6
    assert len(set(seeds[0].values())) == 5


def test_image_seed_never_changes_between_versions() -> None:
    seeds = [image_seed(0, "000000", 0), image_seed(0, "000000", 1), image_seed(1, "000000", 0)]
    assert seeds == [1030322577, 2221105715, 2719389429]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1).filter(
    lambda text: text.strip() == text
)
row_values = st.fixed_dictionaries(
    {"prompt": texts},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "height": st.integers(1, 4096),
        "guidance_scale": st.floats(0, 100),
        "negative_prompt": texts,
    },
)


@given(st.lists(row_values, max_size=8), st.integers(1, 40))
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    table = io.StringIO()
    writer = csv.DictWriter(table, ["prompt", "seed", "height", "guidance_scale", "negative_prompt"])
    writer.writeheader()
    writer.writerows(rows)
    expected = [(row["prompt"], SamplingParams(**{k: v for k, v in row.items() if k != "prompt"})) for row in rows]
    forms = {
        "p.jsonl": "\n".join(json.dumps(row) for row in rows),
        "p.json": json.dumps(rows, indent=1, ensure_ascii=False),
        "p.csv": table.getvalue(),
    }
    before, json_format._CHUNK = json_format._CHUNK, chunk
    try:
        for name, text in forms.items():
            got = read(folder / name, text)
            assert [(row.prompt, row.sampling) for row in got if isinstance(row, Row)] == expected, name
    finally:
        json_format._CHUNK = before


def test_rows_of_an_edit_have_their_pictures_and_are_bad_without(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "p.jsonl").write_text(
        '{"instruction": "x", "left": "a.png", "right": "b.png"}\n'
        '{"instruction": "x", "left": "a.png"}\n{"instruction": "x"}\n{"instruction": "x", "left": "c.png"}\n'
    )
    columns = Columns(task="edit", theirs={"input_images": ("left", "right")})
    both, one, none, missing = Rows.from_file(tmp_path / "p.jsonl", SamplingParams(), EVERY_ROW, columns)
    assert isinstance(both, Row)
    assert isinstance(one, Row)
    assert [[source.name for source in row.images] for row in (both, one)] == [["a.png", "b.png"], ["a.png"]]
    assert "no input_images" in why(none)
    assert "'c.png' can't be read" in why(missing)
    (job,) = one.jobs(0)
    assert job.images == one.images


def test_rows_of_an_image_folder_have_its_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "sub" / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nsub/a.png,make it blue\n")
    columns = Columns(task="edit", theirs={"instruction": ("text",)})
    row = only(list(Rows.from_file(tmp_path, SamplingParams(), EVERY_ROW, columns)))
    assert (row.prompt, [source.name for source in row.images]) == ("make it blue", ["sub/a.png"])
