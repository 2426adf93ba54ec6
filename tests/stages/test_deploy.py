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


def test_empty_mappings_are_defaults() -> None:
    text = "stage_args:\n- {stage_type: ar, model: a, engine_args: , default_sampling_params: }\n"
    stage, _ = parse_deploy_config(text + "- {stage_type: diffusion, model: b, dit_config: }\n")
    assert (stage.engine_args, stage.limit) == ({}, 32)


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
        (("stage_id: 1", "stage_id: 3"), r"line 7: stage ids are \[0, 3\]; expected 0, 1, 2"),
        (("engine_args: {max_num_seqs: 4}", "handoff: text_to_prompt"), "line 5: stage 0 has a handoff"),
        (("text_to_prompt, template", "text_to_promt, template"), "line 18: handoff is 'text_to_promt'; expected"),
        (("{text}, oil", "oil"), "line 18: template is 'oil'; expected a text with {text} in it"),
        (("template:", "tempalte:"), "line 18: handoff text_to_prompt takes no option 'tempalte'"),
        (('text_to_prompt, template: "{text}, oil"', "image_to_image"), "line 18: .* after a stage of type diffusion"),
        (("text_to_prompt, template", "'nowhere:f', template"), "line 18: handoff 'nowhere:f' can't be imported"),
        (("engine_args: {max_num_seqs: 4}", "engine_args: {dtype: float33}"), "line 5: dtype is 'float33'"),
        (("guidance_scale: 2.5", "scheduler: Euler"), "line 16: scheduler is 'Euler'; expected a scheduler class"),
        (("device: cpu", "device: gpu zero"), "line 10: device is 'gpu zero'; expected cuda, cuda:1, cpu"),
        (("device: cpu", "device: [cpu]"), "line 10: device names 1 devices for 2 replicas"),
        (("{height: 64}", "64"), "line 17: default_sampling_params is 64; expected keys with values"),
        (("model: demo-expand", "model: !!python/name:os.system x"), "line 4: not plain YAML"),
        (("stage_id: 1", "? [a]\n    : 3\n    stage_id: 1"), "line 7: a key is no text"),
        (("on_error: user_prompt", "on_error: ignore"), "line 18: on_error is 'ignore'"),
        (("    model: demo\n", ""), "line 7: the stage has no model"),
        (("stage_args:", "stage:"), "line 1: expected `stage_args:`"),
        (("model: demo-expand", "model: [demo"), "line 5: not plain YAML"),
        (("    model: demo\n", "    model: demo\n    model: demo\n"), "line 10: 'model' stands there twice"),
    ],
)
def test_errors_name_the_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(InvalidRequestError, match=message):
        parse_deploy_config(GOOD.replace(*change, 1))


VLLM_OMNI = """\
async_chunk: false
trust_remote_code: true
dtype: float32
stages:
  - stage_id: 0
    max_num_seqs: 3
    gpu_memory_utilization: 0.6
    enforce_eager: true
    tensor_parallel_size: 1
    enable_prefix_caching: false
    devices: "0,1"
    num_replicas: 2
    default_sampling_params: {seed: 42, num_inference_steps: 5, guidance_scale: 1.5, height: 64, width: 64}
"""


def test_vllm_omnis_flat_keys_are_taken() -> None:
    (stage,) = parse_deploy_config(VLLM_OMNI, model="demo")
    assert (stage.stage_type, stage.model, stage.replicas, stage.device) == (
        "diffusion", "demo", 2, ("cuda:0", "cuda:1"),
    )  # fmt: skip
    assert (stage.drawing_config().max_num_seqs, stage.drawing_config().memory_utilization) == (3, 0.6)
    assert (stage.engine_args["dtype"], stage.sampling().seed, stage.sampling().width) == ("float32", 42, 64)
    older = "stage_args:\n- {stage_type: diffusion, model: demo, runtime: {devices: '1', num_replicas: 1}}\n"
    assert parse_deploy_config(older)[0].device == "cuda:1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_num_seqs: 3", "max_num_sequences: 3"), "line 6: .*'max_num_sequences'; did you mean 'max_num_seqs'"),
        (("tensor_parallel_size: 1", "tensor_parallel_size: 4"), "line 9: tensor_parallel_size is 4: say num_replicas"),
        (("async_chunk: false", "base_config: x.yaml"), "line 1: base_config: files are whole here"),
        (("async_chunk: false", "asynchronous: true"), "unknown key 'asynchronous'"),
        (("dtype: float32", "quantization: fp8"), "line 3: quantization: say quantize"),
        (("stages:", "stages:\n  - stage_id: 1"), "line 4: 2 stages say no stage_type and model"),
        (("seed: 42", "top_k: 42"), "line 13: .*'top_k'"),
        (("enforce_eager: true", "vae_use_slicing: true"), "line 8: vae_use_slicing: use --enable-vae-slicing"),
    ],
)
def test_what_has_no_counterpart_of_vllm_omnis_is_refused_by_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in VLLM_OMNI
    with pytest.raises(InvalidRequestError, match=message):
        parse_deploy_config(VLLM_OMNI.replace(*change, 1), model="demo")


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
