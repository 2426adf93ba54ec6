"""bulk/backends: the real SDKs over real sockets, against a server with faults. Nothing is lost, limits are kept."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, colour, png
from cyclopts import App
from PIL import Image

from interlace.bulk.backends import find_endpoints, open_api_generator
from interlace.bulk.backends.endpoints import Endpoint, parse_base_url, read_endpoints
from interlace.bulk.backends.errors import NoEndpointError, RequestCapError, ServiceError
from interlace.bulk.backends.limits import EndpointGate, Gates, TokenBucket, backoff_s
from interlace.bulk.backends.pool import ApiGenerator
from interlace.bulk.input.media import DataImage, FileImage, ImageSource
from interlace.bulk.input.rows import Job, Rows
from interlace.bulk.output.sink import ModelId, Sink, read_manifest
from interlace.bulk.plan import RunOptions
from interlace.bulk.report.report import Result
from interlace.bulk.run import run_bulk
from interlace.cli.flags.api import ApiFlags
from interlace.cli.flags.bulk import NodeFlags, RunFlags
from interlace.cli.main import run
from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, InvalidRequestError
from interlace.request import Output, SamplingParams
from interlace.retry import retry_after_s

KEY = "sk-a-secret-key"
BACKENDS = [("openai", "some-model"), ("google_genai", "gemini-image"), ("google_genai", "imagen-4.0")]
FAULTS = [
    "429 0.2",
    "429",
    "500",
    "503 0.1",
    "408",
    "409",
    "hang",  # for as long as `request_timeout_s` says, which no answer may take on a busy machine
    "bad json",
    "half json",
    "close",
    "cut",
    "bad picture",
]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GOOGLE_GENAI_USE_VERTEXAI", raising=False)


@pytest.fixture(autouse=True)
def _quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.bulk.backends.limits._FIRST_WAIT_S", 0.05)


def job(prompt: str = "a fox", images: Sequence[ImageSource] = (), **sampling: Any) -> Job:
    params = SamplingParams(**{"seed": 7, **sampling})
    return Job(row_id=prompt, index=0, name=prompt, prompt=prompt, sampling=params, images=tuple(images))


def address(server: ApiServer, backend: str) -> str:
    return server.url if backend == "openai" else server.root


def generator(server: ApiServer, backend: str = "openai", model: str = "some-model", **flags: Any) -> ApiGenerator:
    given = {"base_url": [address(server, backend)], "api_key": KEY, "num_processes": 8, "request_timeout_s": 120}
    return open_api_generator(backend, model, ApiFlags(**{**given, **flags}))


def outputs(made: ApiGenerator, jobs: Sequence[Job]) -> list[Output]:
    futures: list[Future[Output]] = [made.submit(one) for one in jobs]
    try:
        return [future.result(300) for future in futures]
    finally:
        made.close()


def is_right(output: Output) -> bool:
    return output.error is None and output.images[0].convert("RGB").getpixel((0, 0)) == colour(output.prompt or "")


@pytest.mark.parametrize(("backend", "model"), BACKENDS)
def test_every_image_comes_whatever_goes_wrong_at_first(backend: str, model: str) -> None:
    jobs = [job(f"{number} {fault}") for number, fault in enumerate(FAULTS)]
    faulty = ApiServer(lambda seen, attempt: seen.prompt.partition(" ")[2] if attempt == 1 else None)
    with faulty.running() as server:
        made = generator(server, backend, model, request_timeout_s=5)
        got = outputs(made, jobs)
    assert [output.error for output in got if output.error] == []
    assert all(map(is_right, got))
    assert Counter(server.prompts) == {one.prompt: 2 for one in jobs}  # one fault and one image each, no more
    assert all(output.metrics.total_s >= output.metrics.queue_s >= 0 for output in got)
    assert made.facts()["requests"] == len(server.seen) == 2 * len(jobs)


@pytest.mark.parametrize(
    ("status", "backend", "model"), [(400, *BACKENDS[0]), (403, *BACKENDS[1]), (422, *BACKENDS[2])]
)
def test_what_a_service_refuses_is_not_asked_again_and_harms_no_other(status: int, backend: str, model: str) -> None:
    with ApiServer(lambda seen, attempt: str(status) if seen.prompt == "bad" else None).running() as server:
        bad, good = outputs(generator(server, backend, model), [job("bad"), job("good")])
    assert isinstance(bad.error, ServiceError)
    assert f"HTTP {status}: the server says {status} to ***" in str(bad.error)  # it told the key; we don't
    assert bad.error.transient is False
    assert is_right(good)
    assert Counter(server.prompts) == {"bad": 1, "good": 1}


def test_what_never_passes_is_given_up_after_max_retries() -> None:
    with ApiServer(lambda seen, attempt: "500").running() as server:
        (output,) = outputs(generator(server, max_retries=2), [job()])
    assert len(server.seen) == 3
    assert "HTTP 500" in str(output.error)
    assert "attempt 3" in str(output.error)


@pytest.mark.parametrize(("workers", "at_once"), [({"num_processes": 6}, 6), ({"max_global_workers": 3}, 3)])
def test_requests_at_once_reach_the_limit_and_never_pass_it(workers: dict[str, int], at_once: int) -> None:
    with ApiServer(delay_s=0.05, at_once=at_once).running() as server:
        flags = {"num_processes": 6, **workers}
        made = generator(server, **flags)
        got = outputs(made, [job(str(number)) for number in range(24)])
    assert all(map(is_right, got))
    assert server.most_at_once == at_once == made.facts()["most_at_once"]


def test_no_request_comes_before_the_rate_limit_lets_it() -> None:
    with ApiServer().running() as server:
        started = time.monotonic()
        got = outputs(generator(server, requests_per_minute=600), [job(str(number)) for number in range(25)])
    assert all(map(is_right, got))
    for number, at in enumerate(sorted(seen.at for seen in server.seen)):  # up to 10 at once, then 10 a second
        assert at - started >= (number - 9) / 10 - 0.01  # later is the machine's business


def test_nothing_is_sent_while_a_service_asks_for_a_pause() -> None:
    limited_at: list[float] = []

    def fault(seen: Any, attempt: int) -> str | None:
        if seen.prompt == "3" and attempt == 1:
            limited_at.append(time.monotonic())
            return "429 2"
        return None

    with ApiServer(fault, delay_s=0.02).running() as server:
        got = outputs(generator(server, num_processes=2), [job(str(number)) for number in range(12)])
    assert all(map(is_right, got))
    later = [seen.at - limited_at[0] for seen in server.seen if seen.at > limited_at[0]]
    assert sum(wait < 1.9 for wait in later) <= 4  # of nine at most: those that were under way
    assert max(later) >= 1.9


def test_a_service_that_takes_few_requests_at_once_gets_few_and_nothing_is_lost() -> None:
    server_of_two = ApiServer(delay_s=0.03)
    server_of_two.fault = lambda seen, attempt: "429" if server_of_two._at_once > 2 else None
    with server_of_two.running() as server:
        made = generator(server, max_retries=3, num_processes=12)
        got = outputs(made, [job(str(number)) for number in range(40)])
    assert all(map(is_right, got))
    assert made.facts()["endpoints"][0]["rate_limited"] < 40  # without a window most of 12 at once would be refused


def test_the_cap_is_kept_and_what_is_over_it_says_so() -> None:
    first = ApiServer(lambda seen, attempt: "500" if seen is first.seen[0] else None)
    with first.running() as server:
        got = outputs(generator(server, max_requests=6), [job(str(number)) for number in range(10)])
    assert len(server.seen) == 6
    over = [output for output in got if output.error]
    assert all(isinstance(output.error, RequestCapError) for output in over)
    assert "6 requests are sent" in str(over[0].error)
    assert sum(map(is_right, got)) == 5


@pytest.mark.parametrize("status", ["401", "404"])
def test_a_key_or_model_that_is_wrong_ends_the_run_after_one_request(status: str) -> None:
    with ApiServer(lambda seen, attempt: status).running() as server:
        made = generator(server, num_processes=1)
        got = outputs(made, [job(str(number)) for number in range(5)])
    assert len(server.seen) == 1
    assert all(isinstance(output.error, NoEndpointError) for output in got)
    assert KEY not in str(got[0].error) + json.dumps(dict(made.facts()))


def test_requests_go_to_endpoints_by_weight_with_their_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with ApiServer(delay_s=0.01).running() as one, ApiServer(delay_s=0.01).running() as three:
        urls = [f"{one.url},key_env=OTHER_KEY", f"{three.url},weight=3"]
        got = outputs(generator(one, base_url=urls), [job(str(number)) for number in range(40)])
    assert all(map(is_right, got))
    assert (len(one.seen), len(three.seen)) == (10, 30)
    assert ({seen.key for seen in one.seen}, {seen.key for seen in three.seen}) == ({"sk-other"}, {KEY})


def test_an_endpoint_that_is_down_costs_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.bulk.backends.limits._FIRST_WAIT_S", 0.5)  # longer than all others take
    with ApiServer(lambda seen, attempt: "close").running() as down, ApiServer().running() as up:
        got = outputs(generator(up, base_url=[down.url, up.url], max_retries=1), [job(str(n)) for n in range(30)])
    assert all(map(is_right, got))
    assert len(down.seen) < 20


def test_an_endpoint_without_a_valid_key_is_left_to_the_others() -> None:
    with ApiServer(lambda seen, attempt: "401").running() as closed, ApiServer().running() as up:
        made = generator(up, base_url=[closed.url, up.url], max_retries=0)
        got = outputs(made, [job(str(number)) for number in range(20)])
    assert all(map(is_right, got))
    assert [("out" in endpoint) for endpoint in made.facts()["endpoints"]] == [True, False]


def test_aborted_and_late_requests_end_soon_and_a_closed_pool_takes_none() -> None:
    with ApiServer(lambda seen, attempt: "hang").running() as server:
        made = generator(server, num_processes=1, request_timeout_s=3)
        sent, waits, late = (made.submit(one) for one in (job("a"), job("b"), job("c", timeout_s=0.2)))
        made.abort(job("a"))
        made.abort(job("b"))
        assert isinstance(sent.result(60).error, AbortedError)  # the server has not answered, and doesn't
        assert isinstance(waits.result(60).error, AbortedError)
        assert isinstance(late.result(60).error, DeadlineExceededError)
        left = made.submit(job("d"))
        made.close()
        assert isinstance(left.result(60).error, EngineClosedError)
        assert isinstance(made.submit(job("e")).result(60).error, EngineClosedError)


# What is sent.


def test_openai_gets_its_fields_and_others_as_extras() -> None:
    with ApiServer().running() as server:
        made = generator(server)
        given = job(width=512, height=256, num_inference_steps=9, negative_prompt="fog", extra={"quality": "low"})
        resolved = made.resolved(given)
        outputs(made, [given])
    (seen,) = server.seen
    sent = {"num_inference_steps": 9, "negative_prompt": "fog", "seed": 7, "size": "512x256", "quality": "low"}
    rest = {"model": "some-model", "prompt": "a fox", "n": 1, "response_format": "b64_json"}
    assert seen.body == sent | rest
    assert (seen.path, seen.key) == ("/v1/images/generations", KEY)
    assert resolved == sent | {"backend": "openai", "response_format": "b64_json"}


@pytest.mark.parametrize("num_pictures", [1, 3])
@pytest.mark.parametrize(("backend", "model"), BACKENDS[:2])
def test_edits_send_their_pictures_in_order(backend: str, model: str, num_pictures: int) -> None:
    sources = [DataImage(png(f"picture {number}", (20 + number, 10))) for number in range(num_pictures)]
    with ApiServer(lambda seen, attempt: "500" if attempt == 1 else None).running() as server:
        (output,) = outputs(generator(server, backend, model), [job("make it night", sources, strength=0.5)])
    assert is_right(output)
    for seen in server.seen:
        pictures = [Image.open(io.BytesIO(data)) for data in seen.pictures]
        assert [picture.size for picture in pictures] == [(20 + number, 10) for number in range(num_pictures)]
        assert pictures[-1].getpixel((0, 0)) == colour(f"picture {num_pictures - 1}")
    if backend == "openai":
        assert seen.path == "/v1/images/edits"
        assert seen.body["strength"] == "0.5"
        assert seen.body["_files"] == ["image"] if num_pictures == 1 else ["image[]"] * num_pictures
    else:
        assert seen.body["generationConfig"]["strength"] == 0.5


def test_a_picture_that_is_not_there_fails_its_row_and_sends_nothing(tmp_path: Path) -> None:
    with ApiServer().running() as server:
        made = generator(server, max_requests=1)
        lost, good = outputs(made, [job("lost", [FileImage(tmp_path / "no.png", given="no.png", size=1)]), job("good")])
    assert isinstance(lost.error, InvalidRequestError)
    assert is_right(good)  # the cap counts what was sent
    assert server.prompts == ["good"]


def test_pictures_may_come_by_address_and_no_key_goes_there() -> None:
    with ApiServer(lambda seen, attempt: "url").running() as server:
        (output,) = outputs(generator(server), [job("fox")])
    assert is_right(output)


def test_gemini_and_imagen_get_shapes_for_sizes() -> None:
    with ApiServer().running() as server:
        outputs(generator(server, "google_genai", "gemini-image"), [job(width=1920, height=1080)])
        outputs(generator(server, "google_genai", "imagen-4.0"), [job(width=896, height=1280, guidance_scale=3)])
    gemini, imagen = server.seen
    assert gemini.path.endswith("/models/gemini-image:generateContent")
    config = {
        "seed": 7,
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
    }
    assert gemini.body["generationConfig"] == config
    assert imagen.path.endswith("/models/imagen-4.0:predict")
    assert imagen.body["parameters"]["aspectRatio"] == "3:4"
    assert imagen.body["parameters"]["guidanceScale"] == 3
    assert "seed" not in imagen.body["parameters"]  # it would need the watermark gone


@pytest.mark.parametrize(("model", "fault", "words"), [
    ("gemini-image", "blocked", "blocked: PROHIBITED_CONTENT"),
    ("gemini-image", "unsafe", "blocked: IMAGE_SAFETY"),
    ("imagen-4.0", "blocked", "filtered: it is not nice"),
])  # fmt: skip
def test_what_google_blocks_is_told_and_not_asked_again(model: str, fault: str, words: str) -> None:
    with ApiServer(lambda seen, attempt: fault).running() as server:
        (output,) = outputs(generator(server, "google_genai", model), [job()])
    assert words in str(output.error)
    assert len(server.seen) == 1


@pytest.mark.parametrize(("backend", "model", "sampling", "words"), [
    ("openai", "gpt-image-1", {"strength": 0.5}, "no strength"),
    ("openai", "gpt-image-1", {"num_inference_steps": 4, "guidance_scale": 2.0}, "no num_inference_steps and no guid"),
    ("openai", "gpt-image-1", {"width": 512}, "width and height together"),
    ("google_genai", "gemini-image", {"negative_prompt": "fog"}, "no negative_prompt"),
    ("google_genai", "gemini-image", {"width": 3000, "height": 100}, "aspect ratios"),
    ("google_genai", "imagen-4.0", {"num_inference_steps": 4}, "no num_inference_steps"),
])  # fmt: skip
def test_what_an_api_has_no_field_for_is_refused_at_the_door(
    backend: str, model: str, sampling: dict[str, Any], words: str
) -> None:
    made = open_api_generator(backend, model, ApiFlags(api_key=KEY))  # the real endpoints, where nothing is sent
    (output,) = outputs(made, [job(**sampling)])
    assert isinstance(output.error, InvalidRequestError)
    assert words in str(output.error)
    assert made.facts()["requests"] == 0


def test_openai_itself_gets_no_extras_unless_told() -> None:
    made = open_api_generator("openai", "gpt-image-1", ApiFlags(api_key=KEY))
    told = open_api_generator("openai", "gpt-image-1", ApiFlags(api_key=KEY, api_extras=True))
    given = job(width=1024, height=1024)
    assert (
        dict(made.resolved(given))
        == {"seed": None, "negative_prompt": None, "backend": "openai", "size": "1024x1024"} | {}
    )
    assert told.resolved(given)["seed"] == 7
    made.close()
    told.close()


# A whole bulk run.


def bulk(folder: Path, prompts: list[str], server: ApiServer, **flags: Any) -> Result:
    options = RunOptions(model=ModelId(model="some-model"), max_num_seqs=8)
    with Sink(folder) as sink:
        rows = Rows.from_prompts(prompts, SamplingParams())
        return run_bulk(rows, sink, options, lambda: generator(server, **flags))


def test_a_bulk_run_through_faults_has_every_image_once(tmp_path: Path) -> None:
    prompts = [f"{number} {fault}" for number, fault in enumerate([*FAULTS, "none", "url"] * 2)]

    def fault(seen: Any, attempt: int) -> str | None:
        name = seen.prompt.partition(" ")[2]
        return None if attempt > 1 or name == "none" else name

    with ApiServer(fault).running() as server:
        result = bulk(tmp_path, prompts, server, request_timeout_s=5)
    assert result.exit_status == 0
    lines = list(read_manifest(tmp_path))
    assert sorted(line["prompt"] for line in lines) == sorted(prompts)
    for line in lines:
        with Image.open(tmp_path / line["file"]) as image:
            assert image.convert("RGB").getpixel((0, 0)) == colour(line["prompt"])
        assert line["timing"]["total_s"] > 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written


def test_a_capped_run_stops_and_the_next_ones_go_on_from_there(tmp_path: Path) -> None:
    prompts = [str(number) for number in range(20)]
    with ApiServer(delay_s=0.02).running() as server:
        first = bulk(tmp_path, prompts, server, max_requests=8)
        assert first.exit_status == 1
        assert "--max-requests" in (first.fatal or "")
        assert len(list(read_manifest(tmp_path))) == len(server.seen) == 8  # what was paid for is there
        assert not (tmp_path / "failures.jsonl").read_text()
        assert bulk(tmp_path, prompts, server, max_requests=12).exit_status == 0
    assert Counter(server.prompts) == dict.fromkeys(prompts, 1)


def test_a_refused_row_is_listed_and_asked_once(tmp_path: Path) -> None:
    with ApiServer(lambda seen, attempt: "400" if seen.prompt == "3" else None).running() as server:
        result = bulk(tmp_path, [str(number) for number in range(6)], server)
    assert (result.exit_status, result.num_failed) == (1, 1)
    (failure,) = map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines())
    assert failure["type"] == "ServiceError"
    assert len(server.seen) == 6


# Flags and pure parts.


def test_endpoints_from_flags_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " sk-a ")
    fields = parse_base_url("http://a/v1/, weight=2,rpm=60,workers=4,key_env=A_KEY")
    expected = Endpoint(base_url="http://a/v1", api_key="sk-a", weight=2, requests_per_minute=60, max_workers=4)
    assert Endpoint(**fields) == expected
    (tmp_path / "key").write_text("sk-file\n")
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        f"endpoints:\n- {{base_url: http://b/v1, weight: 3, key_file: {tmp_path / 'key'}}}\n- base_url: http://c\n"
    )
    assert [entry.get("api_key") for entry in read_endpoints(file)] == ["sk-file", None]
    flags = ApiFlags(base_url=["http://a"], endpoints_file=file, api_key_file=tmp_path / "key", requests_per_minute=9)
    endpoints = find_endpoints("openai", flags)
    assert [endpoint.host for endpoint in endpoints] == ["a", "b", "c"]
    assert {endpoint.api_key for endpoint in endpoints} == {"sk-file"}
    assert {endpoint.requests_per_minute for endpoint in endpoints} == {9}
    assert "sk-" not in repr(endpoints) + repr(ApiFlags(api_key="sk-x"))


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: parse_base_url("http://a,speed=2"), "weight=..."),
    (lambda path: parse_base_url("http://a,weight=much"), "expected a number"),
    (lambda path: parse_base_url("http://a,key_env=NOT_SET"), "no NOT_SET"),
    (lambda path: Endpoint(base_url="a/v1"), "expected one such as"),
    (lambda path: Endpoint(base_url="http://a", weight=0), "weight is 0"),
    (lambda path: read_endpoints(path / "none.yaml"), "can't read"),
    (lambda path: ApiFlags(max_requests=0), "max_requests is 0"),
    (lambda path: ApiFlags(api_key="a", api_key_file=path), "not both"),
    (lambda path: find_endpoints("openai", ApiFlags()), "set OPENAI_API_KEY"),
    (lambda path: find_endpoints("google_genai", ApiFlags()), "set GEMINI_API_KEY"),
    (lambda path: find_endpoints("midjourney", ApiFlags()), "openai, google_genai"),
])  # fmt: skip
def test_flags_that_can_not_be_used_are_refused_in_words(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=words.replace(".", r"\.")):
        make(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "[3]", "- {base_url: http://a, colour: red}", "- {weight: 2}", "sk-key: ["]
)
def test_endpoint_files_that_can_not_be_used_are_refused_without_their_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(InvalidRequestError) as caught:
        read_endpoints(tmp_path / "e.yaml")
    assert "sk-key" not in str(caught.value)


def test_the_flags_stand_beside_those_of_bulk_commands() -> None:
    app = App(result_action="return_value")

    @app.default
    def command(
        *,
        api: ApiFlags = ApiFlags(),  # noqa: B008
        nodes: NodeFlags = NodeFlags(),  # noqa: B008
        run: RunFlags = RunFlags(),  # noqa: B008
    ) -> tuple[ApiFlags, NodeFlags, RunFlags]:
        return api, nodes, run

    tokens = "--base-url http://a,weight=2 --base-url http://b --num-processes 4 --max-retries 7 --max-global-workers 9"
    api, nodes, run = app(tokens.split())
    assert (api.base_url, api.num_workers) == (["http://a,weight=2", "http://b"], 9)
    assert (nodes.num_processes, run.max_retries) == (4, 7)


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "3"}) == 3
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50) == 10
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


def test_backoff_doubles_up_to_a_minute_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.bulk.backends.limits._FIRST_WAIT_S", 0.5)
    assert [backoff_s(attempt, 1.0) for attempt in (1, 2, 3, 40)] == [0.5, 1, 2, 60]
    assert backoff_s(3, 0.0) == 1


class NoConnection:
    def ask(self, *arguments: object) -> Image.Image:
        raise AssertionError

    def close(self) -> None: ...


def gates(*endpoints: Endpoint) -> Iterator[EndpointGate]:
    return (EndpointGate(endpoint, NoConnection(), 4, 0.0) for endpoint in endpoints)


def test_an_endpoint_that_was_away_has_no_claim_to_what_it_missed() -> None:
    away, here = gates(Endpoint(base_url="http://a"), Endpoint(base_url="http://b"))
    both = Gates([away, here])
    away.paused_until = 10.0
    assert {both.pick(1.0) for _ in range(50)} == {here}
    assert 4 <= [both.pick(11.0) for _ in range(10)].count(away) <= 6


def test_a_bucket_gives_one_second_worth_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(120, 0.0)
    for _ in range(2):
        assert bucket.ready_in(0.0) == 0
        bucket.take()
    assert bucket.ready_in(0.0) == pytest.approx(0.5)
    assert bucket.ready_in(0.5) == 0


def test_pools_end_with_their_threads() -> None:
    with ApiServer().running() as server:
        outputs(generator(server), [job()])
    for thread in threading.enumerate():
        if thread.name.startswith("interlace-api"):
            thread.join(120)
            assert not thread.is_alive()


# The command line.


@pytest.mark.parametrize(("backend", "model"), [("openai", "some-model"), ("google_genai", "gemini-some-image")])
def test_t2i_and_edit_ask_the_service_that_the_flags_name(backend: str, model: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(png("before"))
    with ApiServer(lambda seen, attempt: "429" if attempt == 1 else None).running() as server:
        common = ["--backend", backend, "--model-name", model, "--base-url", address(server, backend)]
        common += ["--api-key", KEY, "--num-processes", "2", "--max-global-workers", "4"]
        t2i = ["t2i", "--prompt", "one", "two", "--output-dir", str(tmp_path / "t2i"), *common]
        assert run(t2i) == 0
        edit = ["edit", "--image", str(picture), "--prompt", "three", "--output-dir", str(tmp_path / "edit"), *common]
        assert run(edit) == 0
    assert {line["prompt"] for line in read_manifest(tmp_path / "t2i")} == {"one", "two"}
    assert {line["prompt"] for line in read_manifest(tmp_path / "edit")} == {"three"}


def test_a_backend_that_is_not_there_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["t2i", "--prompt", "a", "--output-dir", str(tmp_path), "--backend", "nothing"]) == 2
    assert "expected one of diffusers, xdit, openai, google_genai" in capsys.readouterr().err
