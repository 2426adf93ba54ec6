"""Deploy files: what they mean, and errors that name the line."""

from pathlib import Path

import pytest

from interlace.errors import InvalidRequestError
from interlace.stages.config import (
    DiTConfig,
    HandoffConfig,
    create_ar_stage_config,
    create_dit_stage_config,
)
from interlace.stages.deploy import load_deploy_config, parse_deploy_config

GOOD = """\
stage_args:
  - stage_id: 0
    stage_type: ar
    model: demo-expand
    engine_args: {max_num_seqs: 4}
    default_sampling_params: {temperature: 0.7, stop: ["."], max_tokens: 20}
  - stage_id: 1
    stage_type: diffusion
    model: demo
    device: cpu
    replicas: 2
    engine_args:
      max_num_seqs: 4
      request_batch_max_wait_ms: 20
      step_execution: false
    dit_config: {num_inference_steps: 7, guidance_scale: 2.5}
    default_sampling_params: {height: 64}
    handoff: {function: text_to_prompt, template: "{text}, oil", on_error: user_prompt}
"""


def test_a_deploy_file_is_its_stages() -> None:
    writer, painter = parse_deploy_config(GOOD)
    assert (writer.stage_type, writer.model, writer.limit) == ("ar", "demo-expand", 8)
    assert (writer.sampling().temperature, writer.sampling().stop) == (0.7, (".",))
    assert painter.engine_config().request_batch_max_wait_ms == 20
    assert (painter.sampling().num_inference_steps, painter.sampling().height) == (7, 64)
    assert painter.handoff == HandoffConfig(
        function="text_to_prompt", options={"template": "{text}, oil"}, on_error="user_prompt"
    )


def test_the_examples_are_good() -> None:
    for name in ("expand.yaml", "draw_then_edit.yaml"):
        assert len(load_deploy_config(Path("examples") / name)) == 2


def test_stages_fit_together_without_saying_how() -> None:
    text = "stage_args:\n- {stage_type: ar, model: a}\n- {stage_type: diffusion, model: b}\n"
    text += "- {stage_type: diffusion, model: c}\n"
    stages = parse_deploy_config(text)
    assert [stage.stage_id for stage in stages] == [0, 1, 2]
    assert [stage.handoff and stage.handoff.function for stage in stages] == [None, "text_to_prompt", "image_to_image"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("stage_type: ar", "stage_type: llm"), "line 3: stage_type is 'llm'; expected one of ar, diffusion"),
        (("max_num_seqs: 4}", "max_num_seq: 4}"), "line 5: .*unknown key 'max_num_seq'; did you mean 'max_num_seqs'"),
        (("temperature: 0.7", "temperature: hot"), "line 6: temperature is 'hot'; expected a number"),
        (("      max_num_seqs: 4\n", "      max_num_seqs: 0\n"), "line 13: max_num_seqs is 0; expected"),
        (("replicas: 2", "replica: 2"), "line 11: .*did you mean 'replicas'"),
        (("num_inference_steps: 7", "num_inference_steps: -7"), "line 16: num_inference_steps is -7"),
        (("{height: 64}", "{hight: 64}"), "line 17: .*unknown key 'hight'; did you mean 'height'"),
        (("stage_id: 1", "stage_id: 3"), r"stage ids are \[0, 3\]; expected 0, 1, 2"),
        (("on_error: user_prompt", "on_error: ignore"), "line 18: on_error is 'ignore'"),
        (("    model: demo\n", ""), "line 7: the stage has no model"),
        (("stage_args:", "stages:"), "line 1: expected `stage_args:`"),
        (("model: demo-expand", "model: [demo"), "line 5: not YAML"),
        (("    model: demo\n", "    model: demo\n    model: demo\n"), "line 10: 'model' stands there twice"),
    ],
)
def test_errors_name_the_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(InvalidRequestError, match=message):
        parse_deploy_config(GOOD.replace(*change, 1))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="can't read the deploy file"):
        load_deploy_config(tmp_path / "none.yaml")


def test_configs_from_python_are_checked_as_well() -> None:
    stage = create_dit_stage_config(1, "demo", dit_config={"num_inference_steps": 50, "guidance_scale": 7.5})
    assert stage.dit_config == DiTConfig(num_inference_steps=50, guidance_scale=7.5)
    with pytest.raises(InvalidRequestError, match="did you mean 'num_inference_steps'"):
        create_dit_stage_config(1, "demo", dit_config={"num_inference_step": 50})
    with pytest.raises(InvalidRequestError, match="base_url is 'host:80'"):
        create_ar_stage_config(0, "m", engine_args={"base_url": "host:80"})
    with pytest.raises(InvalidRequestError, match="2 devices for 1 replicas"):
        create_dit_stage_config(0, "demo", device=("cpu", "cpu"))
    with pytest.raises(InvalidRequestError, match="expected one of text, image"):
        create_ar_stage_config(0, "m", output_modalities=["words"])
