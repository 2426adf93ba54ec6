"""bulk/stores.py and bulk/disk.py: what was stored is read back, whatever happened to the end of a shard."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.bulk.output import disk
from interlace.bulk.output.disk import GrowingFile, json_lines, replace_file, why_not_written
from interlace.bulk.output.stores import FileStore, Store, TarStore, is_stored, read_stored, tidy_shards, webdataset_key
from interlace.errors import InvalidRequestError


def put(store: Store, name: str, data: bytes = b"") -> dict[str, Any]:
    data = data or f"the image {name}".encode() * 50
    place = store.put(name, "png", data, {"prompt": f"a {name}", "id": name})
    return {**place, "size_bytes": len(data), "name": name}


def data_of(record: dict[str, Any]) -> bytes:
    return f"the image {record['name']}".encode() * 50


def members(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


@pytest.mark.parametrize("layout", ["files", "tar"])
def test_what_was_put_is_read_back(tmp_path: Path, layout: str) -> None:
    store: Store = FileStore(tmp_path) if layout == "files" else TarStore(tmp_path, 3)
    records = [put(store, name) for name in ("a", "b.c", "圆", "x" * 180, "e")]
    store.close()
    assert all(is_stored(tmp_path, record) for record in records)
    assert [read_stored(tmp_path, record) for record in records] == [data_of(record) for record in records]


def test_shards_hold_so_many_samples_each_of_three_members(tmp_path: Path) -> None:
    store = TarStore(tmp_path, 2)
    for name in "abcde":
        put(store, name)
    store.close()
    shards = sorted(path.name for path in tmp_path.glob("*.tar"))
    assert shards == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert members(tmp_path / shards[0]) == ["a.png", "a.json", "a.txt", "b.png", "b.json", "b.txt"]
    assert members(tmp_path / shards[2]) == ["e.png", "e.json", "e.txt"]
    with tarfile.open(tmp_path / shards[0]) as tar:
        texts = [tar.extractfile(name) for name in ("a.txt", "a.json")]
        assert next(text.read() for text in texts if text) == b"a a"
        assert json.loads(tar.extractfile("a.json").read()) == {"prompt": "a a", "id": "a"}  # type: ignore[union-attr]


def test_a_dot_in_an_id_stays_in_the_key_and_no_two_ids_share_one(tmp_path: Path) -> None:
    assert webdataset_key("v1.5") == "v1%2E5"
    names = ["a.b", "a%2Eb", "a", "a%b"]
    assert len({webdataset_key(name) for name in names}) == len(names)


def test_an_open_shard_can_be_read(tmp_path: Path) -> None:
    store = TarStore(tmp_path, 100)
    put(store, "a")
    assert members(tmp_path / "shard-000000.tar") == ["a.png", "a.json", "a.txt"]
    store.close()


@settings(max_examples=40)
@given(cut=st.integers(0, 12_000), junk=st.binary(max_size=700))
def test_any_cut_through_the_last_shard_keeps_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = TarStore(folder, 4)
    records = [put(store, name) for name in "abcdef"]
    store.close()
    last = folder / "shard-000001.tar"
    last.write_bytes(last.read_bytes()[:cut] + junk)
    kept = [record for record in records if is_stored(folder, record)]
    assert [record["name"] for record in kept[:4]] == list("abcd")
    store = TarStore(folder, 4, kept)
    kept += [put(store, record["name"]) for record in records if record not in kept]
    store.close()
    assert sorted(record["name"] for record in kept) == list("abcdef")
    assert [read_stored(folder, record) for record in kept] == [data_of(record) for record in kept]
    assert len(members(last)) == 6
    assert last.stat().st_size % 512 == 0


def test_a_run_that_goes_on_gives_the_same_shards_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    store = TarStore(tmp_path / "one", 3)
    for name in "abcde":
        put(store, name)
    store.close()
    store = TarStore(tmp_path / "two", 3)
    records = [put(store, name) for name in "abcd"]
    put(store, "torn")  # no line in the manifest stands for it
    store = TarStore(tmp_path / "two", 3, records)
    put(store, "e")
    store.close()
    for name in ("shard-000000.tar", "shard-000001.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_image_at_the_same_place_is_not_trusted(tmp_path: Path) -> None:
    store = TarStore(tmp_path, 9)
    record = put(store, "a")
    store.close()
    assert is_stored(tmp_path, record)
    assert not is_stored(tmp_path, {**record, "file": "b.png"})
    assert not is_stored(tmp_path, {**record, "size_bytes": record["size_bytes"] - 1})
    assert not is_stored(tmp_path, {**record, "offset": record["offset"] + 512})
    assert not is_stored(tmp_path, {**record, "shard": "shard-000009.tar"})
    assert not is_stored(tmp_path, {**record, "offset": None})


def test_tidying_takes_out_what_no_record_stands_for(tmp_path: Path) -> None:
    store = TarStore(tmp_path, 3)
    records = [put(store, name) for name in "abcdefg"]
    store.close()
    mine = tmp_path / "shard-mine.tar"
    mine.write_bytes(b"not ours")
    kept = [record for record in records if record["name"] in "acef"]
    moves = tidy_shards(tmp_path, kept)
    kept = [moves.followed(record) for record in kept]
    assert all(is_stored(tmp_path, record) for record in kept)
    assert [read_stored(tmp_path, record) for record in kept] == [data_of(record) for record in kept]
    assert not (tmp_path / "shard-000002.tar").exists()
    assert mine.exists()
    assert not tidy_shards(tmp_path, kept)


def test_a_tagged_store_leaves_what_is_there_alone(tmp_path: Path) -> None:
    first = TarStore(tmp_path, 9, tag="0-1")
    a = put(first, "a")
    first.close()
    second = TarStore(tmp_path, 9, tag="0-1")
    b = put(second, "b")
    second.close()
    assert (a["shard"], b["shard"]) == ("shard-0-1-000000.tar", "shard-0-1-000001.tar")
    assert is_stored(tmp_path, a)


def test_a_shard_size_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1"):
        TarStore(tmp_path, 0)


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    store = TarStore(tmp_path, 2)
    for name in ("a", "b.c", "d"):
        put(store, name)
    store.close()
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "b%2Ec", "d"]
    assert json.loads(samples[1]["json"])["id"] == "b.c"
    assert samples[2]["png"] == b"the image d" * 50
    assert samples[2]["txt"] == b"a d"


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("tar", [False, True])
def test_where_the_disk_is_full_nothing_is_half_there_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tar: bool
) -> None:
    store: Store = TarStore(tmp_path, 9) if tar else FileStore(tmp_path)
    a = put(store, "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            put(store, "b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    b = put(store, "b")
    store.close()
    assert [read_stored(tmp_path, record) for record in (a, b)] == [data_of(a), data_of(b)]


def test_a_line_holds_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(disk.json_line({"where": "a\udcff.jsonl:1"}))
    assert [value for _, _, value in json_lines(tmp_path / "lines")] == [{"where": "a\udcff.jsonl:1"}]


def test_a_growing_file_cuts_what_was_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = GrowingFile(tmp_path / "lines")
    assert file.append(b'{"a": 1}\n') == 0
    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            file.append(b'{"b": 2}\n')
    assert file.append(b'{"c": 3}\n') == 9
    file.close()
    assert [value for _, _, value in json_lines(tmp_path / "lines")] == [{"a": 1}, {"c": 3}]


def test_a_failed_replacement_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    replace_file(path, b"old")
    monkeypatch.setattr(disk.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, [b"ne", b"w"])
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(28, "the disk is full"), (30, "make it writable"), (13, "make it writable"), (5, "can't write")],
)
def test_why_a_disk_did_not_take_something_is_told(number: int, words: str) -> None:
    assert words in why_not_written(Path("out"), OSError(number, "reason"))
