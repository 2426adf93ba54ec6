"""enhance.py: prompts rewritten on a real server and by the built-in language model, cached, with faults on the way."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk.enhance import CACHE, EnhancingGenerator
from interlace.bulk.input.rows import Job
from interlace.bulk.output.manifest import read_manifest
from interlace.bulk.text_cache import TextCache
from interlace.cli.flags.enhance import EnhanceFlags
from interlace.cli.main import run
from interlace.errors import AbortedError, InvalidRequestError
from interlace.request import Output, Request, SamplingParams
from tests.stages.server import Server
from tests.zoo.family import picture


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the generator was asked for: names and prompts. Its pictures are fakes."""
    asked: list[tuple[str, str]] = []

    class Recording(FakeGenerator):
        def submit(self, job: Job) -> "Future[Output]":
            asked.append((job.name, job.prompt))
            return super().submit(job)

    monkeypatch.setattr(interlace, "Omni", lambda model, **options: None, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni, *edit: Recording())
    return asked


@pytest.fixture
def t2i(server: Server, tmp_path: Path) -> Callable[..., int]:
    flags = ("--prompt-enhance", server.url, "--prompt-enhance-model", "m", "--output-dir", str(tmp_path / "out"))
    return lambda *more: run(["t2i", *flags, *map(str, more)])


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in read_manifest(folder / "out")}


def test_prompts_are_rewritten_and_both_texts_kept(
    t2i: Callable[..., int], server: Server, made: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert t2i("--prompt", "a red fox", "snow", "a red fox", "--num-images", 2) == 0
    assert {prompt for _, prompt in made} == {"A RED FOX", "SNOW"}
    assert len(made) == 6
    assert server.tries("a red fox") == 1, "equal prompts are asked for once"
    record = manifest(tmp_path)["000000"]
    assert (record["prompt"], record["enhanced_prompt"]) == ("a red fox", "A RED FOX")
    assert record["prompt_enhance"].startswith("m:")
    body = server.requests[0]
    assert body["model"] == "m"
    assert "Answer with the prompt alone" in body["messages"][0]["content"]
    assert body["temperature"] == 0
    counts = json.loads((tmp_path / "out/summary.json").read_text())["prompt_enhance"]
    assert (counts["written"], counts["failed"]) == (2, 0)


def test_a_run_that_goes_on_asks_for_nothing_again(
    t2i: Callable[..., int], server: Server, made: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    rows = ("--prompts-file", tmp_path / "two.txt")
    assert t2i(*rows) == 0
    assert t2i(*rows) == 0
    assert len(made) == len(server.requests) == 2
    (tmp_path / "out/000000.png").unlink()
    assert t2i(*rows) == 0
    assert made[2:] == [("000000", "A")]
    assert len(server.requests) == 2, "from the file"
    assert t2i(*rows, "--prompt-enhance-system", "Shout.") == 0
    assert len(server.requests) == 4, "told something else, it may write something else"
    assert server.requests[-1]["messages"][0]["content"] == "Shout."


def test_without_the_flag_keys_are_what_they_were(made: list[tuple[str, str]], tmp_path: Path) -> None:
    assert run(["t2i", "--prompt", "a", "--output-dir", str(tmp_path / "out")]) == 0
    assert made == [("000000", "a")]
    assert "prompt_enhance" not in manifest(tmp_path)["000000"]
    assert not (tmp_path / "out" / CACHE).exists()


def test_a_failure_is_the_row_s_own(
    t2i: Callable[..., int], made: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert t2i("--prompt", "refused words", "snow") == 1
    assert made == [("000001", "SNOW")]
    (line,) = map(json.loads, (tmp_path / "out/failures.jsonl").read_text().splitlines())
    assert "the prompt could not be rewritten" in line["error"]
    assert "this model takes no such thing" in line["error"]
    assert "--prompt-enhance-fallback" in line["error"]


def test_with_the_fallback_the_row_s_own_prompt_is_drawn(
    t2i: Callable[..., int], made: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert t2i("--prompt", "refused words", "snow", "--prompt-enhance-fallback") == 0
    assert dict(made) == {"000000": "refused words", "000001": "SNOW"}
    record = manifest(tmp_path)["000000"]
    assert "this model takes no such thing" in record["prompt_enhance_error"]
    assert "enhanced_prompt" not in record


def test_errors_that_pass_are_waited_for(t2i: Callable[..., int], made: list[tuple[str, str]], server: Server) -> None:
    assert t2i("--prompt", "a busy day") == 0
    assert made == [("000000", "A BUSY DAY")]
    assert server.tries("busy") == 3


def test_instructions_of_edits_too_with_their_pictures(
    server: Server, made: list[tuple[str, str]], tmp_path: Path
) -> None:
    picture(1, 64).save(tmp_path / "a.png")
    flags = ["--prompt-enhance", server.url, "--prompt-enhance-model", "m", "--prompt-enhance-images"]
    arguments = ["--image", str(tmp_path / "a.png"), "--prompt", "make it blue", "--output-dir", str(tmp_path / "out")]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr("interlace.models.loader.load_editor", lambda *args, **options: None)
        assert run(["edit", *arguments, *flags]) == 0
    told, asked = server.requests[0]["messages"]
    assert "image editing model" in told["content"]
    assert [part["type"] for part in asked["content"]] == ["image_url", "text"]
    assert asked["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    record = manifest(tmp_path)["000000"]
    assert record["prompt"] == "make it blue"
    assert "BLUE" in record["enhanced_prompt"]


def test_the_key_comes_from_the_environment(
    t2i: Callable[..., int], made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai

    seen: list[Any] = []
    original = openai.AsyncOpenAI.__init__

    def init(self: Any, **options: Any) -> None:
        seen.append(options["api_key"])
        original(self, **options)

    monkeypatch.setattr(openai.AsyncOpenAI, "__init__", init)
    monkeypatch.setenv("MY_KEY", "secret")
    assert t2i("--prompt", "a", "--prompt-enhance-key-env", "MY_KEY") == 0
    assert seen == ["secret"]


def test_the_built_in_language_model(made: list[tuple[str, str]], tmp_path: Path) -> None:
    flags = ["--prompt-enhance", "demo-expand", "--prompt-enhance-max-tokens", "20"]
    assert run(["t2i", "--prompt", "a star", "--output-dir", str(tmp_path / "out"), *flags]) == 0
    record = manifest(tmp_path)["000000"]
    assert "star" in record["enhanced_prompt"]
    assert len(record["enhanced_prompt"]) > len("a star")
    assert made == [("000000", record["enhanced_prompt"])]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt-enhance", "http://localhost:1/v1"], "name it with --prompt-enhance-model"),
        (["--prompt-enhance-fallback"], "means nothing without --prompt-enhance"),
        (["--prompt-enhance", "demo-expand", "--prompt-enhance-model", "m"], "is for a server"),
        (["--prompt-enhance", "demo-expand", "--prompt-enhance-images"], "is for a server"),
        (["--prompt-enhance", "demo-expand", "--prompt-enhance-max-tokens", "0"], "max_tokens is 0"),
        (["--prompt-enhance", "/nowhere/at/all"], "cannot load language model"),
    ],
)
def test_unusable_flags_give_status_2(
    flags: list[str], words: str, made: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["t2i", "--prompt", "a", "--output-dir", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_broken_cache_is_told(t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("not a database, and longer than a header of one " * 10)
    assert t2i("--prompt", "a", "--prompt-enhance-cache", tmp_path / "cache") == 2
    assert "delete it, or name another with --prompt-enhance-cache" in capsys.readouterr().err


def test_the_first_text_stands_for_all_processes(tmp_path: Path) -> None:
    one, other = TextCache(tmp_path / "c"), TextCache(tmp_path / "c")
    assert one.put("k", "a", "first") == "first"
    assert other.put("k", "a", "second") == "first"
    one.close()
    other.close()
    assert sqlite3.connect(tmp_path / "c").execute("SELECT prompt, text FROM texts").fetchall() == [("a", "first")]


class SlowWriter:
    """Writes when it is told to."""

    def __init__(self) -> None:
        self.futures: dict[str, Future[Output]] = {}
        self.asked = threading.Event()

    def submit(self, request: Request) -> "Future[Output]":
        self.futures[request.request_id] = Future()
        self.asked.set()
        return self.futures[request.request_id]

    def close(self) -> None: ...


def test_an_image_can_be_aborted_while_its_prompt_is_written(tmp_path: Path) -> None:
    inner, writer = FakeGenerator(), SlowWriter()
    flags = EnhanceFlags(prompt_enhance="demo-expand")
    job = Job(row_id="a", index=0, name="a", prompt="a", sampling=SamplingParams())
    with EnhancingGenerator(inner, writer, TextCache(tmp_path / "c"), flags, "m:1") as generator:
        future = generator.submit(job)
        assert writer.asked.wait(120)
        generator.abort(job)
        assert isinstance(future.result(120).error, AbortedError)
        writer.futures["a"].set_result(Output(request_id="a", text="<think>so</think> late "))
    assert inner.submitted == []
    assert inner.closed
    with EnhancingGenerator(inner, writer, TextCache(tmp_path / "c"), flags, "m:1") as generator:
        assert generator.submit(job).result(120).error is None
        assert generator.resolved(job)["enhanced_prompt"] == "late", "thoughts are no prompt, and it was kept"


def test_where_the_server_is_does_not_matter() -> None:
    one = EnhanceFlags(prompt_enhance="http://a/v1", prompt_enhance_model="m").identity("t2i")
    assert one == EnhanceFlags(prompt_enhance="http://b/v1", prompt_enhance_model="m").identity("t2i")
    assert one != EnhanceFlags(prompt_enhance="http://a/v1", prompt_enhance_model="m").identity("edit")
    with pytest.raises(InvalidRequestError):
        EnhanceFlags(prompt_enhance_cache=Path("a"))
