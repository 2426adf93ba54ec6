"""What all tests share: no network, quiet libraries, and settings of Hypothesis that suit a busy machine."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; torch in each would take them all
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see interlace/cli/main.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from hypothesis import HealthCheck, settings

settings.register_profile("interlace", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interlace")


@pytest.fixture(autouse=True)
def _nothing_learned_before(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's forwards cost, some of them slow on purpose, is nothing to the next."""
    folder: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("INTERLACE_CACHE_DIR", str(folder))


@pytest.fixture
def sides_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches compare within this process: what they print is tested, and no time is."""
    from interlace.bench import sides

    monkeypatch.setattr(sides, "SIDE", sides.SideHere)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test said that failed at first and passed when it ran again: there is no other trace of it."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"at first: {report.nodeid}", "-")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-60:]))
