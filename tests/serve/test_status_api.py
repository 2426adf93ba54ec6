"""Health, what is served, counts; and the schema of it all."""

import json
import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from interlace import AsyncOmni
from serve.live import SMALL, Live, running

ROOT = Path(__file__).parents[2]


def test_info_says_what_can_be_asked_for(server: Live) -> None:
    with server.http() as http:
        info = http.get("/info").json()
    assert info["model"] == "demo"
    assert info["defaults"]["num_inference_steps"] == 16
    assert info["limits"] == {"min_size": 64, "max_size": 192, "multiple_of": 16}
    assert info["editing"]["model"] == "demo-edit"
    assert info["server"]["max_steps"] == 150
    assert info["quality_steps"]["low"] == 8


def test_the_engines_share_their_weights_and_nothing_else(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    draw, edit = (one.omni.model.pipeline for one in engines)
    assert draw.transformer is not edit.transformer
    assert draw.transformer.proj_out.weight is edit.transformer.proj_out.weight
    ours, theirs = (one.transformer.transformer_blocks[0].attn for one in (draw, edit))
    assert ours.processor is not theirs.processor
    assert draw.tokenizer is not edit.tokenizer


def test_health_says_when_it_is_not(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    with running(*engines) as live, live.http() as http:
        until_warm = http.get("/health")
        assert until_warm.status_code in (200, 503)
        live.state.registry.admission.draining = True
        got = http.get("/health")
        assert (got.status_code, got.json()["error"]["message"]) == (503, "shutting down")
        assert http.get("/liveness").status_code == 200


def test_metrics_count_what_happened(server: Live) -> None:
    with server.http() as http:
        http.post("/v1/images/generations", json={"prompt": "a star", **SMALL})
        families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    named = set(families)
    assert all(name.startswith("interlace:") for name in named)
    expected = {"num_requests_running", "num_requests_waiting", "request", "e2e_request_latency_seconds",
                "request_queue_time_seconds", "forward_rows", "padded_text_tokens", "oom_retries", "cache_hits",
                "abort", "unfused_kinds", "device_memory_bytes"}  # fmt: skip
    assert {f"interlace:{name}" for name in expected} <= named
    counts = [s.value for s in families["interlace:request"].samples if s.labels.get("outcome") == "ok"]
    assert sum(counts) >= 1
    rows = {s.labels["module"] for s in families["interlace:forward_rows"].samples}
    assert {"transformer", "vae.decode"} <= rows
    samples = families["interlace:engine_seconds"].samples
    spent = {sample.labels["part"]: sample.value for sample in samples if sample.name.endswith("_total")}
    assert set(spent) == {"forward", "strand", "engine"}
    assert spent["forward"] > spent["strand"] > 0


def test_the_dashboard_asks_for_metrics_that_exist(server: Live) -> None:
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    with server.http() as http:
        http.post("/v1/images/generations", json={"prompt": "a star", **SMALL})
        text = http.get("/metrics").text
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 8
    for expression in expressions:
        for word in expression.replace("(", " ").replace("[", " ").replace("{", " ").replace(")", " ").split():
            if word.startswith("interlace:"):
                assert f"# TYPE {word.removesuffix('_bucket').removesuffix('_sum').removesuffix('_count')}" in text, (
                    word
                )


def test_cors_only_where_asked_for(engines: tuple[AsyncOmni, AsyncOmni], server: Live) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    with server.http() as http:
        assert "access-control-allow-origin" not in http.options("/v1/images/generations", headers=headers).headers
    with running(*engines, cors_origin=("https://example.org",), api_key=("k",)) as live, live.http() as http:
        got = http.options("/v1/images/generations", headers=headers)
        assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, "https://example.org")
        assert http.get("/info", headers={"Origin": "https://example.org"}).status_code == 401


def test_aliases_and_any_model(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    body = {"prompt": "a", **SMALL, "num_inference_steps": 1}
    with running(*engines, model_alias=("gpt-image-1", "org/name")) as live, live.http() as http:
        assert http.get("/v1/models/org/name").json()["id"] == "org/name"
        assert http.post("/v1/images/generations", json={**body, "model": "gpt-image-1"}).status_code == 200
        assert http.post("/v1/images/generations", json={**body, "model": "dall-e-2"}).status_code == 404
    with running(*engines, accept_any_model=True) as live, live.http() as http:
        assert http.post("/v1/images/generations", json={**body, "model": "dall-e-2"}).status_code == 200


def test_a_fault_of_the_server_is_a_500_in_the_usual_form(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    app: FastAPI = server.server.config.app
    app.add_api_route("/broken", lambda: 1 / 0, include_in_schema=False)
    with caplog.at_level(logging.CRITICAL), server.http() as http:
        got = http.get("/broken")
    assert got.status_code == 500
    assert got.json()["error"]["code"] == "internal_error"


@pytest.mark.slow
def test_the_server_keeps_to_its_schema(server: Live) -> None:
    """Schemathesis asks whatever the schema allows, and more: no 500, no status that isn't documented.

    A timeout of next to nothing is allowed: what is late is a 504.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import status_code_conformance

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = [not_a_server_error, status_code_conformance]

    def ask(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and "prompt" in case.body:
            case.body["num_inference_steps"] = 1  # what it would otherwise ask for takes minutes
            case.body["size"] = "64x64"
        response = case.call(base_url=server.url, timeout=300)
        late = response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        case.validate_response(response, checks=[status_code_conformance] if late else checks)

    few = settings(
        max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
    )
    for result in schema.get_all_operations():
        operation = result.ok()
        if not operation.path.endswith("/events"):
            few(given(case=operation.as_strategy())(ask))()
