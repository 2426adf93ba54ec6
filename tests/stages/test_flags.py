"""Stages from a command's flags, and a bulk run through them."""

import json
from pathlib import Path

import pytest
from cyclopts import App
from PIL import Image

from interlace.cli.flags.stages import StageFlags, stages_from_flags, stages_name
from interlace.cli.main import run
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError

EXPAND = Path("examples/expand.yaml")
NO_FLAGS = StageFlags()


def test_no_flags_no_stages() -> None:
    assert stages_from_flags(StageFlags(), "demo") is None


def test_flags_make_a_writer_and_a_painter() -> None:
    flags = StageFlags(ar_stage="demo-expand", dit_steps=50, dit_guidance_scale=7.5, ar_max_tokens=20)
    stages = stages_from_flags(flags, "demo", engine=EngineConfig(max_num_seqs=3), load={"device": "cpu"})
    assert stages is not None
    writer, painter = stages
    assert (writer.stage_type, writer.model, writer.sampling().max_tokens) == ("ar", "demo-expand", 20)
    assert (painter.model, painter.engine_args, painter.device) == ("demo", {"max_num_seqs": 3}, "cpu")
    assert (painter.dit_config.num_inference_steps, painter.dit_config.guidance_scale) == (50, 7.5)
    assert painter.handoff is not None
    assert painter.handoff.function == "text_to_prompt"
    alone = stages_from_flags(StageFlags(dit_stage="other"), "demo")
    assert alone is not None
    assert [stage.model for stage in alone] == ["other"]
    remote = stages_from_flags(StageFlags(ar_stage="qwen", ar_base_url="http://x/v1"), "demo")
    assert remote is not None
    assert remote[0].remote


def test_what_a_language_models_server_takes_is_a_flag_with_several_values() -> None:
    def command(name: str, *, flags: StageFlags = NO_FLAGS) -> tuple[str, StageFlags]:
        return name, flags

    app = App()
    app.default(command)
    words = ["demo", "--ar-stage", "qwen", "--ar-base-url", "http://x/v1", "--ar-input-modalities", "text", "audio"]
    name, flags = app(words, result_action="return_value")
    stages = stages_from_flags(flags, name)
    assert stages is not None
    assert stages[0].input_modalities == ("text", "audio")


def test_a_deploy_files_own_words_win() -> None:
    stages = stages_from_flags(StageFlags(deploy_config=EXPAND), "demo", engine=EngineConfig(max_num_seqs=3))
    assert stages is not None
    assert stages[1].engine_config().max_num_seqs == 8
    more = stages_from_flags(StageFlags(deploy_config=EXPAND), "x", engine=EngineConfig(policy="sjf"))
    assert more is not None
    assert more[1].engine_args == {"policy": "sjf", "max_num_seqs": 8}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (StageFlags(deploy_config=EXPAND, dit_steps=3), "--dit-steps and --deploy-config are given"),
        (StageFlags(ar_max_tokens=3), "--ar-max-tokens needs --ar-stage"),
        (StageFlags(dit_steps=-3), "num_inference_steps is -3"),
        (StageFlags(ar_stage="m", ar_prompt_template="no place"), "prompt_template is 'no place'"),
    ],
)
def test_flags_that_do_not_go_together(flags: StageFlags, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        stages_from_flags(flags, "demo")


def test_the_name_of_stages_changes_with_what_changes_pictures() -> None:
    def name(**flags: object) -> str:
        return stages_name(stages_from_flags(StageFlags(ar_stage="demo-expand", **flags), "demo") or ())

    assert name().startswith("demo-expand -> demo (")
    assert name() == name()
    assert len({name(), name(ar_temperature=0.1), name(dit_steps=3)}) == 3


def test_a_bulk_run_through_stages_says_what_was_written_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "ideas.txt").write_text("a star\ntwo circles\n")
    flags = ["t2i", "--deploy-config", str(EXPAND), "--prompts-file", str(tmp_path / "ideas.txt"), "-o", str(out),
             "--height", "64", "--width", "64", "--num-inference-steps", "1"]  # fmt: skip
    assert run(flags) == 0
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {record["prompt"] for record in records} == {"a star", "two circles"}
    assert all(len(record["text"].split()) > 4 for record in records)
    assert all(record["stages"] == ["demo-expand", "demo"] for record in records)
    written = (out / "manifest.jsonl").read_bytes()
    assert run(flags) == 0
    assert (out / "manifest.jsonl").read_bytes() == written, "nothing was left to do"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["already_done"] == 2


def test_edits_go_through_stages_too(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    out = tmp_path / "out"
    flags = ["edit", "--ar-stage", "demo-expand", "--dit-steps", "1", "--image", str(tmp_path / "in.png"), "--prompt",
             "a star", "--output-dir", str(out)]  # fmt: skip
    assert run(flags) == 0
    record = json.loads((out / "manifest.jsonl").read_text())
    assert record["stages"] == ["demo-expand", "demo-edit"]
    assert record["prompt"] == "a star"
    assert len(record["text"].split()) > 4
