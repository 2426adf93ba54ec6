"""What keeps pictures and texts knows of adapters: manifests, keys, PNG metadata, the prompt cache."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image

from interlace import Engine
from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run
from interlace.demo import MODELS
from interlace.models.adapters.files import file_hash
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES
from tests.zoo.family import seeded
from tests.zoo.stable_diffusion import tiny

OWN = MODELS["demo"].path / "lora"


def test_a_run_knows_the_adapters_and_what_was_in_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ink = tmp_path / "ink.safetensors"
    shutil.copy(OWN / "outline.safetensors", ink)
    rows = '{"id": "plain", "prompt": "a red circle"}\n{"id": "inked", "prompt": "a red circle", "lora": "ink:0.7"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    flags = ["t2i", "--prompts-file", str(tmp_path / "rows.jsonl"), "--output-dir", str(tmp_path / "out"), "--lora"]
    flags += [f"ink={ink}", "--num-inference-steps", "1", "--height", "64", "--width", "64", "--no-html"]
    assert run(flags) == 0
    records = {record["id"]: record for record in read_manifest(tmp_path / "out")}
    digest = file_hash(ink)
    assert "lora" not in records["plain"]
    assert records["inked"]["lora"] == [{"name": "ink", "scale": 0.7, "sha256": digest}]
    with Image.open(tmp_path / "out/inked.png") as picture:
        assert f'Lora hashes: "ink: {digest[:12]}"' in picture.text["parameters"]
    capsys.readouterr()
    assert run(flags) == 0
    assert "2 of 2 images are there already" in capsys.readouterr().err
    shutil.copy(OWN / "pastel.safetensors", ink)  # another file under the same name
    assert run(flags) == 0
    assert "1 of 2 images are there already" in capsys.readouterr().err
    again = {record["id"]: record for record in read_manifest(tmp_path / "out")}
    assert again["inked"]["lora"][0]["sha256"] == file_hash(ink) != digest
    assert again["plain"]["request_key"] == records["plain"]["request_key"]


def test_the_prompt_cache_tells_adapters_of_a_text_encoder_apart() -> None:
    pipeline: Any = tiny()
    with seeded(2):
        for name in ("a", "b"):
            config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            inject_adapter_in_model(config, pipeline.text_encoder, adapter_name=name)
    asked: list[dict[str, float]] = [{}, {"a": 1.0}, {"a": 0.5}, {"b": 1.0}]

    def call() -> dict[str, Any]:
        return FAMILIES["sd15-ddim"].requests()[0]

    def outputs(**options: Any) -> tuple[list[Any], Any]:
        with Engine(pipeline, **options) as engine:
            for _ in range(2):
                with engine.paused():  # all of them start together
                    futures = [engine.submit(call(), adapters=adapters) for adapters in asked]
                found = [future.result(timeout=300) for future in futures]
            return found, engine.stats()["prompt_cache"]

    (plain, _), (cached, stats) = outputs(), outputs(prompt_cache_bytes=1 << 20)
    assert stats["hits"] >= len(asked)
    assert max(map(difference, cached, plain)) < TOLERANCE
    assert min(difference(cached[0], other) for other in cached[1:]) > 10 * TOLERANCE
