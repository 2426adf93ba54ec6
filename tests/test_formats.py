"""bulk/formats: every kind of input gives the same rows, each with its place; one that can't be used is refused."""

import csv
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from interlace.bulk.input.columns import Columns
from interlace.bulk.input.formats import Record, open_source
from interlace.bulk.input.rows import BadRow, Row, Rows
from interlace.bulk.input.selection import Selection
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"prompt": "a red circle", "id": "x", "height": 64, "guidance_scale": None},
    {"prompt": "é 圆", "id": "y", "height": None, "guidance_scale": 2.5},
    {"prompt": "third", "id": "z", "height": 32, "guidance_scale": 1.0},
]
EXPECTED = [
    ("x", "a red circle", SamplingParams(height=64)),
    ("y", "é 圆", SamplingParams(guidance_scale=2.5)),
    ("z", "third", SamplingParams(height=32, guidance_scale=1.0)),
]


def read(place: Path | str, **options: Any) -> list[Row | BadRow]:
    return list(Rows.from_file(place, SamplingParams(), **options))


def got(place: Path | str, **options: Any) -> list[tuple[str, str, SamplingParams]]:
    rows = read(place, **options)
    assert all(isinstance(row, Row) for row in rows), rows
    return [(row.id, row.prompt, row.sampling) for row in rows if isinstance(row, Row)]


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def saved_dataset(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def test_a_parquet_file_gives_rows_with_their_numbers(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", ROWS, row_group_size=2)
    assert got(path) == EXPECTED
    assert [row.where for row in read(path)] == [f"{path}:{number}" for number in (1, 2, 3)]


def test_columns_of_a_data_set_that_are_not_read_are_named(tmp_path: Path) -> None:
    row = {"prompt": "a star", "url": "x", "num_frames": 3, "sede": 4, "steps": 2}
    path = write_parquet(tmp_path / "p.parquet", [row])
    told = "columns of {} that are not read: num_frames (for `interlace t2v`), sede (seed?), {}url"
    assert Rows.from_file(path, SamplingParams()).unread == told.format(path, "steps (num_inference_steps?), ")
    theirs = {"num_inference_steps": ("steps",)}
    taken = Columns(theirs=theirs)
    assert Rows.from_file(path, SamplingParams(), columns=taken).unread == told.format(path, "")
    asked = Columns(ignore_unknown=True)
    assert Rows.from_file(path, SamplingParams(), columns=asked).unread is None
    many = write_parquet(tmp_path / "many.parquet", [{"prompt": "a star", **{f"q{n}": n for n in range(11)}}])
    unread = Rows.from_file(many, SamplingParams()).unread
    assert unread is not None
    assert unread.endswith("q7 and 3 more")


def test_columns_of_numbers_with_gaps_are_read_as_pandas_and_others_write_them(tmp_path: Path) -> None:
    nan = float("nan")
    cells = {"prompt": ["a", "b", "c"], "id": [1.0, nan, 3.0], "guidance_scale": [2.5, nan, nan], "seed": [nan, 7.0, 8]}
    expected = [
        ("1", "a", SamplingParams(guidance_scale=2.5)),
        ("000001", "b", SamplingParams(seed=7)),
        ("3", "c", SamplingParams(seed=8)),
    ]
    parquet.write_table(pa.table(cells), tmp_path / "p.parquet")
    assert got(tmp_path / "p.parquet") == expected
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(cells).to_parquet(tmp_path / "q.parquet")
    assert got(tmp_path / "q.parquet") == expected
    pandas.DataFrame(cells).to_json(tmp_path / "q.jsonl", orient="records", lines=True)
    assert got(tmp_path / "q.jsonl") == expected
    chosen = Rows.from_file(tmp_path / "p.parquet", SamplingParams(), Selection.parse(where=["guidance_scale > 0"]))
    assert [row.id for row in chosen] == ["1"]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train" / "part-1.parquet", ROWS[1:])
    write_parquet(tmp_path / "train" / "part-0.parquet", ROWS[:1])
    assert got(tmp_path) == EXPECTED
    assert read(tmp_path)[1].where.endswith("part-1.parquet:1")


def test_a_broken_parquet_file_is_one_bad_row_and_the_next_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS[:1])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no PAR1")
    write_parquet(tmp_path / "c.parquet", ROWS[1:])
    assert [type(row) for row in read(tmp_path)] == [Row, BadRow, Row, Row]
    with pytest.raises(InvalidRequestError, match="not a Parquet file"):
        read(tmp_path / "b.parquet")


def test_a_parquet_cell_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    cells = pa.array([b"one", b"\xff", b"three"]).view(pa.string())
    parquet.write_table(pa.table({"prompt": cells}), path)
    rows = read(path)
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert rows[1].where == f"{path}:2"


def test_only_columns_that_are_needed_are_read_from_parquet(tmp_path: Path) -> None:
    rows = [{"caption": "a", "picture": b"x" * 100, "score": 1}, {"caption": "b", "picture": b"y" * 100, "score": 9}]
    path = write_parquet(tmp_path / "p.parquet", rows)
    columns = Columns(theirs={"prompt": ("caption",)})
    chosen = Rows.from_file(path, SamplingParams(), Selection.parse(where=["score > 5"]), columns)
    assert next(iter(chosen.records())).columns == {"caption": "a", "score": 1}
    assert [(row.id, row.prompt) for row in chosen] == [("000001", "b")]


def test_a_large_parquet_file_is_never_all_in_memory(tmp_path: Path) -> None:
    rows = [{"prompt": os.urandom(350).hex()} for _ in range(20_000)]  # 14 MB in one group of rows
    path = write_parquet(tmp_path / "p.parquet", rows, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = max(pa.total_allocated_bytes() - before for _ in open_source(path).read(None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most + peak < 5e6


def test_a_large_json_file_is_never_all_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"prompt": f"{number:07d}" * 100} for number in range(20_000)]))
    tracemalloc.start()
    for _ in open_source(path).read(None):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_folder_of_images_has_its_rows_in_its_metadata(tmp_path: Path, suffix: str) -> None:
    rows = [{"file_name": "a.png", "prompt": "a", "note": "n"}, {"file_name": "b/c.png", "prompt": "b", "note": "m"}]
    path = tmp_path / f"metadata{suffix}"
    if suffix == ".parquet":
        write_parquet(path, rows)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    assert [prompt for _, prompt, _ in got(tmp_path)] == ["a", "b"]
    source = open_source(tmp_path)
    assert source.folder == tmp_path
    images = [record.columns["input_images"] for record in source.read(None) if record.columns]
    assert images == ["a.png", "b/c.png"]


def test_a_folder_without_rows_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"holds no rows; expected one of metadata\.jsonl"):
        read(tmp_path)
    (tmp_path / "metadata.csv").write_text("prompt\na\n")
    with pytest.raises(InvalidRequestError, match="no column file_name"):
        read(tmp_path)


def test_a_saved_dataset_gives_rows_and_leaves_its_pictures_encoded(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    folder = saved_dataset(tmp_path / "saved", ROWS)
    assert got(folder) == EXPECTED
    assert read(folder)[2].where == f"{folder}:3"
    gaps = saved_dataset(tmp_path / "gaps", [{"prompt": "a", "id": 1.0}, {"prompt": "b", "id": float("nan")}])
    assert [row.id for row in read(gaps)] == ["1", "000001"]
    pictures = datasets.Dataset.from_dict(
        {"prompt": ["a"], "input_images": [Image.new("RGB", (4, 4))]},
        features=datasets.Features({"prompt": datasets.Value("string"), "input_images": datasets.Image()}),
    )
    pictures.save_to_disk(str(tmp_path / "pictures"))
    (record,) = open_source(tmp_path / "pictures").read({"input_images"})
    assert record.columns is not None
    assert record.columns["input_images"]["bytes"].startswith(b"\x89PNG")


def test_a_dataset_with_many_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {name: datasets.Dataset.from_list(rows) for name, rows in (("train", ROWS[:1]), ("test", ROWS[1:]))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert got(tmp_path / "saved", split="test") == EXPECTED[1:]
    with pytest.raises(InvalidRequestError, match="has 2 splits; expected --split with one of train, test"):
        read(tmp_path / "saved")
    with pytest.raises(InvalidRequestError, match="has no split 'valid'"):
        read(tmp_path / "saved", split="valid")


def test_a_dataset_of_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is away in tests: its loader reads files that are here, and streams as it does there."""
    datasets = pytest.importorskip("datasets")
    data = write_parquet(tmp_path / "data" / "train.parquet", [{**row, "other": 1} for row in ROWS])
    load, asked = datasets.load_dataset, []

    def local(name: str, subset: str | None, streaming: bool) -> Any:
        asked.append((name, subset, streaming))
        return load("parquet", data_files={"train": str(data)}, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    assert got("hf://datasets/owner/name") == EXPECTED
    assert got("owner/name", subset="small", split="train") == EXPECTED
    assert got("hf://owner/name.csv") == EXPECTED
    assert asked == [("owner/name", None, True), ("owner/name", "small", True), ("owner/name.csv", None, True)]
    assert read("owner/name")[0].where == "owner/name/train:1"


def test_a_dataset_that_can_not_be_had_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(InvalidRequestError, match="can't open the dataset nobody/nothing"):
        read("nobody/nothing")  # the tests are offline
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidRequestError, match=r"pip install 'interlace\[datasets\]'"):
        read("owner/name")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = write_parquet(tmp_path / "p.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRequestError, match=r"pip install 'interlace\[parquet\]'"):
        read(path)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="name is empty"):
        read("")


def test_splits_are_for_datasets(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a")
    with pytest.raises(InvalidRequestError, match="--split is for Hugging Face datasets"):
        open_source(tmp_path / "p.txt", split="train")


def test_a_place_with_a_nul_in_it_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        read("a\0b.jsonl")


def test_a_record_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('\n{"prompt": "a"}\nbroken\n')
    path = tmp_path / "p.jsonl"
    first, second = open_source(path).read(None)
    assert first == Record(f"{path}:2", {"prompt": "a"})
    assert second.where == f"{path}:3"
