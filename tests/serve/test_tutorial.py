"""docs/tutorials/web-application.md: its client's code works as it stands, against a real server."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from serve.live import Live

PAGE = (Path(__file__).parents[2] / "docs/tutorials/web-application.md").read_text()


def test_the_clients_code_works(server: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "openai" in text]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLACE_URL", f"{server.url}/v1")
    (tmp_path / "client.py").write_text(code)
    runpy.run_path("client.py")
    with Image.open("circle.png") as image:
        assert image.size == (128, 128)
