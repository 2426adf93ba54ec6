"""Commands and code of README and docs that name models of the hub, or a server, run offline as they stand.

Tiny models with random weights take the place of the hub's, and make less; the tests' server that of localhost:8000.
"""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run
from serve.live import Live
from tests.checkpoints import save_sd15
from tests.zoo import FAMILIES

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(bash|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of the hub's models: the family in the zoo, and arguments that make it small.
STAND_INS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd15-euler", {}),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ("wan", {"max_sequence_length": 16, "height": 32, "width": 32}),
    "stabilityai/stable-audio-open-1.0": ("stable-audio", {}),
}
_ELSEWHERE = re.compile(r"gpt-image-1|gemini|one\.example|ink=|serve|bench")  # services, files of others, long runs
PAGES = {  # folders that a page's commands make, with how many things each
    "README.md": {"out": 6, "edited": 2, "cats": 1},
    "docs/adapters.md": {"out": 1},
    "docs/api-backends.md": {"local": 2},
    "docs/bulk-outputs.md": {"out": 2},
    "docs/video-and-sound.md": {"films": 1, "sounds": 1},
}


@pytest.fixture(scope="module")
def names(server: Live, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is written in the place of what the pages say."""
    found = {"black-forest-labs/FLUX.1-dev": "demo", "Qwen/Qwen-Image-Edit-2511": "demo-edit"}
    for name, (family, small) in STAND_INS.items():
        pipeline, folder = FAMILIES[family].build(), tmp_path_factory.mktemp(family)
        pipeline.save_pretrained(folder, variant="fp16" if family.startswith("sd15") else None)
        defaults = {type(pipeline).__name__: {"num_inference_steps": 1, **small}}
        (folder / "interlace.json").write_text(json.dumps({"defaults": defaults}))
        found[name] = str(folder)
    found |= {"--size 512x512": "--size 64x64", "--seconds 8": "--seconds 2"}
    return {**found, "http://localhost:8000": server.url, "http://127.0.0.1:8000": server.url}


def blocks(page: str, names: dict[str, str]) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for said, meant in names.items():
        text = text.replace(said, meant)
    return _BLOCK.findall(text)


def commands(text: str) -> list[list[str]]:
    """The words of every `interlace` line that runs here."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if "interlace " in line]
    words = [shlex.split(line, comments=True) for line in lines if not _ELSEWHERE.search(line)]
    words = [[word for word in one if not word.startswith("HF_TOKEN=")] for one in words]
    return [one[1:] for one in words if one[:1] == ["interlace"]]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(
    page: str,
    names: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    shutil.copytree(ROOT / "examples", "examples")
    prompts = ["a red circle", "a blue star"]
    Path("prompts.csv").write_text("id,prompt\n" + "".join(f"row{i},{one}\n" for i, one in enumerate(prompts)))
    Path("prompts.txt").write_text("\n".join(prompts) + "\n")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    Image.new("RGB", (64, 64), "red").save("in.png")
    Path("edits.csv").write_text("id,input_images,instruction\nrow0,in.png,make it blue\n")
    for kind, text in blocks(page, names):
        for words in commands(text) if kind != "python" else ():
            folder = Path(words[max(words.index(flag) for flag in ("-o", "--output-dir") if flag in words) + 1])
            if words[-2] == "webdataset" or "--output-layout" in words or "--output-format" in words:
                shutil.rmtree(folder, ignore_errors=True)  # another kind of folder
            assert run(words) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
        if kind == "python" and "read_parameters" in text:
            runpy.run_path(str(_written(text)))
    counts = {name: len({record["file"] for record in read_manifest(Path(name))}) for name in PAGES[page]}
    assert counts == PAGES[page]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/adapters.md", "docs/server.md"])
def test_the_code_of_a_page_runs(
    page: str, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [text for kind, text in blocks(page, names) if kind == "python"]
    assert found
    for text in found:
        told = runpy.run_path(str(_written(text)))
        assert all(output.error is None for output in told.get("outputs", []))
        assert "answer" not in told or told["answer"].data[0].b64_json
        if "omni" in told:
            told["omni"].close()


@pytest.mark.slow
def test_a_checkpoint_in_one_file_is_read_as_the_page_says(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = FAMILIES["sd15-euler"].build()
    pipeline.save_pretrained("stable-diffusion-v1-5")
    save_sd15(pipeline, Path("dreams.safetensors"))
    lines = [words for _, text in blocks("docs/models.md", names) for words in commands(text)]
    (line,) = [words for words in lines if "--config-from" in words]  # without it the hub is asked
    assert run([*line, "--steps", "1", "--size", "64x64"]) == 0
    assert Path("out/000000.png").exists()


@pytest.mark.slow
def test_a_film_is_made_as_the_page_says(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = next(text for _, text in blocks("docs/video-and-sound.md", names) if "Omni(" in text)
    told = runpy.run_path(str(_written(text)))
    told["omni"].close()
    assert Path("fox.mp4").stat().st_size > 0
    assert Path("tenth.png").exists()
    assert told["output"].fps == 16


def _written(text: str) -> Path:
    path = Path("block.py")
    path.write_text(text)
    return path
