"""Files as people have them, and what they are told: separators, encodings, one column; models, devices, folders."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from interlace.bulk.input.rows import BadRow, Row, Rows
from interlace.bulk.report.summary import denoiser_of, num_cut
from interlace.cli.flags.bulk import SelectFlags
from interlace.cli.main import run
from interlace.cli.rows import open_rows
from interlace.demo import MODELS
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.loading.errors import why_not_loaded
from interlace.models.text_limits import TextLimits
from interlace.request import SamplingParams


def rows(path: Path, data: bytes) -> list[Row | BadRow]:
    path.write_bytes(data)
    return list(Rows.from_file(path, SamplingParams()))


def told(found: list[Row | BadRow]) -> list[tuple[str | None, int | None]]:
    return [(row.prompt, row.sampling.seed if isinstance(row, Row) else None) for row in found]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_whatever_separates_the_columns_is_recognised(tmp_path: Path, separator: str, suffix: str) -> None:
    text = f'prompt{separator}seed\n"red, green; blue|\tpink"{separator}7\nplain{separator}8\n'
    found = rows(tmp_path / f"p{suffix}", text.encode())
    assert told(found) == [("red, green; blue|\tpink", 7), ("plain", 8)]


def test_the_usual_separator_wins_where_it_is_one(tmp_path: Path) -> None:
    assert told(rows(tmp_path / "p.csv", b'prompt,seed\n"a; b; c",7\n')) == [("a; b; c", 7)]


UNCLOSED = "a quote is opened here and never closed; double it, or leave it out"


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id,prompt\n1,a circle\n2,"a red circle\n3,a blue star\n', 3),
        ('id,prompt\r\n1,"a red circle\r\n2,a blue star\r\n3,a "green" square\r\n', 2),
        ('id,prompt\n1,"a red circle\n2,"a blue star"\n', 2),
        ('id,prompt\n"one\ntwo","a red circle\n2,a blue star\n', 3),
        ('id,prompt\n1,a circle\n2,"', 3),
        ('id,"prompt\n1,a circle\n', 1),
    ],
)
def test_a_quote_that_is_never_closed_refuses_the_table(tmp_path: Path, text: str, line: int, separator: str) -> None:
    path = tmp_path / "p.csv"
    with pytest.raises(InvalidRequestError, match=re.escape(f"{path}:{line}: {UNCLOSED}")):
        rows(path, text.replace(",", separator).encode())


def test_a_table_with_an_unclosed_quote_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt\na circle\n"a star\na square\n')
    assert run(["t2i", str(path), "-o", str(tmp_path / "out")]) == 2
    assert f"{path}:3: {UNCLOSED}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_quotes_that_are_no_mistake_are_read_as_they_stand(tmp_path: Path) -> None:
    text = 'prompt,seed\n5" nails,1\n"a ""red"" circle" ,2\n"two\nlines",3\na "green" square,4\n"","5"\n"end"'
    found = told(rows(tmp_path / "p.csv", text.encode()))
    prompts = [('5" nails', 1), ('a "red" circle', 2), ("two\nlines", 3), ('a "green" square', 4), (None, None)]
    assert found == [*prompts, ("end", None)]


def test_text_after_a_closing_quote_is_a_bad_row(tmp_path: Path) -> None:
    found = rows(tmp_path / "p.csv", b'prompt,seed\na,1\n"green" square,2\nb,3\n')
    assert told(found) == [("a", 1), (None, None), ("b", 3)]
    assert isinstance(found[1], BadRow)
    assert found[1].where.endswith("p.csv:3")
    assert "'square,2' follows the closing quote of a cell; quotes inside a quoted cell are doubled" in found[1].error


def test_a_row_of_too_many_cells_says_how_far_a_quote_took_it(tmp_path: Path) -> None:
    (row, last) = rows(tmp_path / "p.csv", b'id,prompt\n1,"a tv\n2,a tv of 42", black\n3,a star\n')
    assert isinstance(row, BadRow)
    assert "3 cells under 2 column names, in a row that a quote has go on to line 3;" in row.error
    assert last.prompt == "a star"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "prompt;seed\nein großes Café;3\n"),
        ("p.txt", "ein großes Café\n"),
        ("p.jsonl", '{"prompt": "ein großes Café"}\n'),
        ("p.json", '["ein großes Café"]'),
    ],
)
def test_utf_16_is_read(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    (row,) = rows(tmp_path / name, text.encode(encoding))
    assert isinstance(row, Row), row
    assert row.prompt == "ein großes Café"


@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.jsonl", "p.json"])
def test_latin_1_is_named(tmp_path: Path, name: str) -> None:
    texts = {".csv": "prompt\ncafé\n", ".txt": "café\n", ".jsonl": '{"prompt": "café"}\n', ".json": '["café"]'}
    (row,) = rows(tmp_path / name, texts[Path(name).suffix].encode("latin-1"))
    assert isinstance(row, BadRow)
    assert "not UTF-8 text; it looks like Latin-1 (Windows-1252): save the file as UTF-8" in row.error


@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.jsonl", "p.json", "p.tsv"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_an_empty_file_is_empty(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidRequestError, match="is empty; expected rows with prompts"):
        open_rows(tmp_path / name, SamplingParams(), SelectFlags())


def test_a_lone_column_is_offered_as_the_prompt(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="only column is 'my words': take it with --prompt-column 'my words'"):
        rows(tmp_path / "p.csv", b"my words\na red circle\n")
    with pytest.raises(InvalidRequestError, match=r"the first line 'a red circle' is no column name; .* p\.txt"):
        rows(tmp_path / "p.csv", b"a red circle\na blue star\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dtype", "float17"], "error: dtype is 'float17'; expected float32, bfloat16 or float16"),
        (["--device", "gpu"], "device is 'gpu'; expected cpu, cuda"),
        (["--model", "./nowhere"], "there is no such directory"),
        (["--model", "nobody/nothing", "--local-files-only"], "download it where there is a network"),
        (["-o", "/etc/hostname"], "/etc/hostname is a file; the output needs a folder"),
        (["-o", "/etc/hostname/out"], "/etc/hostname is a file; the output needs a folder"),
    ],
)
def test_each_mistake_gets_its_own_words(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["t2i", "x", *flags]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "stack" not in said.lower()
    assert "unexpected" not in said


def test_a_gpu_that_is_not_there_is_said() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(InvalidRequestError, match=r"device is 'cuda', but .* leave it out to use the CPU"):
        load_model("demo", device="cuda")


class GatedRepoError(Exception):
    """As the hub's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError("401"), "set HF_TOKEN"),
        (OSError("nobody/x is not a valid model identifier"), "the hub has none of that name"),
        (OSError("boom. Please check out the root cause in the stacktrace above."), "'nobody/x': boom; expected a dir"),
    ],
)
def test_why_a_model_is_not_loaded(error: Exception, words: str) -> None:
    said = why_not_loaded("nobody/x", error)
    assert words in said
    assert "stacktrace" not in said


def test_a_prompt_that_is_too_long_is_marked_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a red circle " * 20
    flags = ["--size", "64x64", "--steps", "1", "-o", str(tmp_path)]
    assert run(["t2i", "a red circle", long, *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    cut = {line["id"]: line.get("prompt_cut") for line in lines}
    assert cut == {"000000": None, "000001": {"tokens": 61, "read": 24}}
    assert json.loads((tmp_path / "summary.json").read_text())["prompts_cut"] == 1
    assert "longer than the model reads: 1 prompt;" in capsys.readouterr().err


def test_what_one_tokenizer_reads_is_not_cut() -> None:
    pipeline = load_model(MODELS["demo"].path, pipeline_class="FluxPipeline").pipeline
    limits = TextLimits(pipeline)
    long = "a red circle " * 10
    assert limits.cut(long, {"max_sequence_length": 24}) == {"tokens": 31, "read": 24}
    assert limits.cut(long, {"max_sequence_length": 512}) is None
    assert limits.cut("a red circle", {"max_sequence_length": 24}) is None


def test_rows_a_forward_are_the_denoisers() -> None:
    counts: dict[str, Any] = {"text_encoder": 90, "transformer": 40, "vae.decode": 60}
    assert denoiser_of(counts) == "transformer"
    assert denoiser_of({"vae.decode": 3}) == "vae.decode"
    assert num_cut([{"prompt_cut": {}}, {}]) == 1
