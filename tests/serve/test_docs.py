"""What docs/server.md shows works as it stands there; so does LiteLLM, where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serve.live import Live, png

PAGE = (Path(__file__).parents[2] / "docs/server.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```", PAGE.split("<!-- curl -->")[1].split("<!-- /curl -->")[0], re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("script", EXAMPLES)
def test_curl_examples(server: Live, script: str, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png())
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("curl ", "curl --fail-with-body ")],
        cwd=tmp_path,
        env={"URL": server.url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "b64_json" in done.stdout or (tmp_path / "star.png").read_bytes()[:4] == b"\x89PNG"


def test_every_flag_that_the_page_names_is_one() -> None:
    from interlace.cli.main import app

    known = {name for one in app["serve"].assemble_argument_collection() for name in one.names}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--help"}
    assert named <= known
    assert len(named) > 20


def test_litellm_makes_a_picture(server: Live) -> None:
    litellm = pytest.importorskip("litellm")
    answer = litellm.image_generation(
        prompt="a star", model="openai/demo", size="64x64", api_base=f"{server.url}/v1", api_key="none"
    )
    assert answer.data[0].b64_json
