"""bulk/index.py and bulk/manifest.py: little is kept of a line, and all of it is found again."""

import json
import tracemalloc
from pathlib import Path

import pytest

from interlace.bulk.output.index import Index, key_digest
from interlace.bulk.output.manifest import MANIFEST, write_lines
from interlace.bulk.output.names import NameList
from interlace.bulk.output.sink import Sink


def line(name: str, **facts: object) -> bytes:
    record = {"id": name, "file": f"{name}.png", "size_bytes": 1, "prompt": "a circle " * 50, **facts}
    return json.dumps(record).encode() + b"\n"


def test_an_image_costs_few_bytes(tmp_path: Path) -> None:
    count = 20_000
    path = tmp_path / MANIFEST
    path.write_bytes(b"".join(line(f"row-{number}", request_key=f"{number:016x}") for number in range(count)))
    tracemalloc.start()
    try:
        index = Index()
        index.read(path)
        records = index.records()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == len(records) == count
    assert kept < 300 * count  # a dict of what the lines say takes 2,000
    assert peak < 500 * count
    assert records[count - 1]["id"] == f"row-{count - 1}"
    assert index.record("row-7")["request_key"] == f"{7:016x}"


def test_the_last_word_counts_and_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_bytes(line("a", n=1) + b'{"torn\n' + line("b.c") + line("a", n=2, request_key="k", encoding="webp-80"))
    index = Index()
    index.read(path)
    assert [(record["id"], record.get("n")) for record in index.records()] == [("a", 2), ("b.c", None)]
    assert index.get("a") == ("a.png", "webp-80", False, key_digest("k"))
    assert index.get("b.c") == ("b.c.png", "png", False, key_digest(None))
    assert (index.get("b"), "b" in index, 3 in index) == (None, False, False)
    write_lines(path, index.records().lines)
    index.settle(path)
    assert [record["id"] for record in index.records(["b.c", "x", "a"])] == ["b.c", "a"]
    assert [record["id"] for record in index.records_sorted(["b.c"])] == ["b.c", "a"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \n\n"])
def test_lines_that_others_wrote_are_taken_as_they_are(tmp_path: Path, end: bytes) -> None:
    whole = line("a", other="圆").rstrip()
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / MANIFEST).write_bytes(b"\xef\xbb\xbf " + whole + end)
    with Sink(tmp_path) as sink:
        assert "a" in sink.images
    assert (tmp_path / MANIFEST).read_bytes() == whole + b"\n"


def test_a_file_that_says_so_already_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    lines = [line(str(number)) for number in range(3000)]
    write_lines(path, lambda: lines)
    before = path.stat()
    write_lines(path, lambda: lines)
    assert path.stat().st_ino == before.st_ino
    write_lines(path, lambda: lines[:-1])
    assert path.read_bytes() == b"".join(lines[:-1])


def test_a_manifest_that_was_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_bytes(line("a") + line("b"))
    index = Index()
    index.read(path)
    path.write_bytes(line("something else") + line("b"))
    with pytest.raises(OSError, match="changed"):
        index.record("b")
    with pytest.raises(OSError, match="changed"):
        index.record("a")


def test_names_are_listed_in_order_and_as_often_as_wanted() -> None:
    names = NameList()
    assert not names
    for name in ("a", "圆.1", "x" * 200):
        names.append(name)
    assert list(names) == list(names) == ["a", "圆.1", "x" * 200]
    assert len(names) == 3
