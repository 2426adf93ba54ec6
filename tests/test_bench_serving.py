"""bench serving: the figures of a load on a real socket, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from api_server import ApiServer

from interlace.bench.load.serving import RequestKind, serving
from interlace.errors import InvalidRequestError
from tests.test_bench_result import printed


def measured(capsys: pytest.CaptureFixture[str], answer: Callable[[Any, int], str | None], **flags: Any) -> Any:
    with ApiServer(answer).running() as server:
        serving(url=server.url, mix=["64x64/2", "128x64/4:2"], num_requests=8, rate=100.0, **flags)
    return printed(capsys)


def test_every_request_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(capsys, lambda seen, attempt: None)
    figures = result["ways"]["server"]
    assert figures["failed"] == 0
    assert 0 < figures["p50_s"] <= figures["p95_s"] <= figures["p99_s"]
    assert 0 <= figures["goodput_per_s"] <= figures["throughput_per_s"]
    assert set(result["solo_s"]) == {"64x64/2", "128x64/4"}


def test_refused_requests_are_failures_and_not_quick_ones(capsys: pytest.CaptureFixture[str]) -> None:
    answer: Callable[[Any, int], str | None] = lambda seen, n: None if seen.prompt == "a red circle" else "500"  # noqa: E731
    figures = measured(capsys, answer, burst=True)["ways"]["server"]
    assert figures["failed"] == 8
    assert figures["attained"] == 0
    assert figures["throughput_per_s"] == 0


def test_a_server_that_refuses_from_the_start_is_an_error() -> None:
    with ApiServer(lambda seen, attempt: "401").running() as server, pytest.raises(InvalidRequestError, match="401"):
        serving(url=server.url, mix=["64x64/2"])


@pytest.mark.parametrize("text", ["64x64", "64/2", "axb/2", "64x64/0", "64x64/2:-1", ""])
def test_a_mix_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="mix holds"):
        RequestKind.parse(text)


def test_weights_are_read() -> None:
    assert RequestKind.parse("128x96/16:2.5") == RequestKind(128, 96, 16, 2.5)
    assert RequestKind.parse("64x64/8") == RequestKind(64, 64, 8, 1.0)


def test_a_url_or_a_comparison_is_wanted_and_not_both() -> None:
    for flags in ({}, {"url": "http://x/v1", "compare": True}):
        with pytest.raises(InvalidRequestError, match="expected --url or --compare"):
            serving(**flags)  # type: ignore[arg-type]
