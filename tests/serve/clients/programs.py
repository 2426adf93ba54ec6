"""Clients that live in environments of their own: `scripts/install-clients` puts them under .clients."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("INTERLACE_CLIENTS_DIR", ROOT / ".clients")).resolve()
_SCRIPTS = Path(__file__).parent / "scripts"
PYTHON = FOLDER / "python/bin/python"
NODE = FOLDER / "node"

needs_python = pytest.mark.skipif(
    not (FOLDER / "python/.installed").is_file(), reason="scripts/install-clients could not install the Python clients"
)
needs_node = pytest.mark.skipif(
    not (NODE / ".installed").is_file() or not shutil.which("node"),
    reason="scripts/install-clients could not install the JavaScript clients",
)


def environment() -> dict[str, str]:
    """Ours, without what would lead another environment's Python to our packages, or a client to somebody else."""
    dropped = ("PYTHONPATH", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


def run_python(script: str, *arguments: str) -> dict[str, Any]:
    """What a client's script prints last: an object."""
    return _run([str(PYTHON), str(_SCRIPTS / script), *arguments])


def run_node(script: str, *arguments: str) -> dict[str, Any]:
    """The same for JavaScript."""
    return _run(["node", str(_SCRIPTS / script), str(NODE), *arguments])


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
