"""Eleven families on a device that isn't there: the engine waits for it only where it says so, and is right about it.

In processes of their own: torch knows the device for as long as a process lives.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlace.engine.device.waits import WAITS
from tests.rehearsal.run import REHEARSED

_WARM = {"positions", "shared", "outcome"}  # once a request


def rehearse(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rehearsal", *arguments], capture_output=True, text=True, timeout=900
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}, done.stderr


def test_nothing_in_the_engine_waits_for_the_device_but_where_it_says_so() -> None:
    status, found, error = rehearse()
    assert status == 0, error
    assert found["families"].keys() == set(REHEARSED)
    for name, family in found["families"].items():
        reasons = {wait["why"] for wait in family["new"] + family["warm"] if wait["who"] == "engine"}
        assert reasons <= WAITS.keys(), name
        warm = {wait["why"] for wait in family["warm"] if wait["who"] == "engine"}
        assert warm <= _WARM, (name, family["warm"])
        assert family["windows"], f"{name}: no decode ran aside"


def test_every_wait_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    for name, why in WAITS.items():
        assert f"| {name} | {why} |" in page


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("cpu", "the engine waits for the device (to the host)"),
        ("device", "expected all tensors on fakegpu:0"),
        ("race", "hasn't waited for it"),
    ],
)
def test_what_is_wrong_on_purpose_is_found(fault: str, found: str) -> None:
    status, _, error = rehearse(f"--fault={fault}", "flux")
    assert status == 1
    assert found in error
