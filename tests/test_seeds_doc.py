"""docs/seeds.md: every file, folder and test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "seeds.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:interlace|tests)/[^`\s]+?)`", TEXT)))


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_exists(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists(), path
    if test:
        assert f"def {test}(" in (ROOT / path).read_text(), name


def test_the_page_names_a_test_in_every_row() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| the seed")]
    assert len(rows) > 40
    assert all("`tests/" in row.rsplit("|", 2)[1] for row in rows)
