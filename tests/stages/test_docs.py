"""The Python examples of docs/stages.md run."""

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", Path("docs/stages.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_examples_run(index: int) -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[index], f"docs/stages.md, example {index}", "exec"), names)
    outputs = names.get("outputs", [])
    assert all(output.error is None and output.images for output in outputs)  # type: ignore[attr-defined]
    if "drawn_and_edited" in names:
        assert names["drawn_and_edited"].error is None  # type: ignore[attr-defined]
        assert names["drawing"].size == (64, 64)  # type: ignore[attr-defined]
