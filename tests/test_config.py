"""config.py: one frozen dataclass from which flags, file keys and environment names come."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_seqs", None),
        ("max_num_seqs", 2.5),
        ("max_num_seqs", True),
        ("max_batch_rows", 0),
        ("max_batch_tokens", -1),
        ("request_batch_max_wait_ms", -1.0),
        ("request_batch_max_wait_ms", float("nan")),
        ("request_batch_max_wait_ms", float("inf")),
        ("request_batch_max_wait_ms", "5"),
        ("verify_fusion", "sometimes"),
        ("policy", "lifo"),
        ("policy", None),
        ("step_execution", "yes"),
        ("check_finite", 1),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as caught:
        EngineConfig(**{name: value})
    assert caught.value.param == name
    assert "expected" in str(caught.value)


def test_the_config_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineConfig().max_num_seqs = 3  # type: ignore[misc]


def test_what_decides_imports_no_torch() -> None:
    modules = "interlace, interlace.config, interlace.request, interlace.cli.main, interlace.bulk.input.rows, "
    modules += "interlace.bulk.run"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
