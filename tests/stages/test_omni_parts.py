"""An omni-modal model's parts: where they run and how often, how much they may keep, and what requests share."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from interlace import Omni
from interlace.engine.pipeline.randomness import Randomness
from interlace.errors import InvalidRequestError, TooLargeError
from interlace.request import Output
from interlace.stages.config import OmniStageConfig
from interlace.stages.deploy import parse_deploy_config
from interlace.stages.omni.engines.budgets import PartNeeds, PartRoom, rooms_on
from interlace.stages.omni.run import Links
from interlace.stages.omni.stage import OmniModelStage
from tests.stages.omni_models import save_qwen2_5_omni
from tests.stages.test_omni_models import SAVE, SOUND, SPOKEN, _all_at_once, by_stock_generate, stage_of

PICTURE = Image.linear_gradient("L").resize((56, 84)).convert("RGB")
SYSTEM = "You are a helpful voice. You speak in short sentences, and you never make up what you do not know."
PARTS = """
stage_args:
- stage_id: 0
  model: {model}
  runtime: {{process: true, devices: cpu}}
  engine_args:
    model_stage: thinker
    model_arch: Qwen2_5OmniForConditionalGeneration
    kv_cache_gib: {kv}
    prefix_cache_gib: 0.01
  default_sampling_params: {{temperature: 0.0, max_tokens: 12}}
- stage_id: 1
  runtime: {{devices: [cpu, cpu], num_replicas: 2}}
  engine_args: {{model_stage: talker, max_num_seqs: 4}}
  default_sampling_params: {{temperature: 0.0, max_tokens: 24}}
- stage_id: 2
  replicas: 2
  engine_args: {{model_stage: code2wav}}
"""
KV_TOKEN = 2 * 2 * 2 * 8 * 4  # bytes: keys and values, layers, heads, width, float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2_5_omni(tmp_path_factory.mktemp("omni") / "model")


@pytest.fixture(scope="module")
def placed(folder: Path) -> Iterator[Omni]:
    with Omni(stages=parse_deploy_config(PARTS.format(model=folder, kv=700 * KV_TOKEN / 2**30))) as omni:
        yield omni


def all_together(omni: Omni, requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """Their outputs; all of them reach the thinker at once."""
    with monkeypatch.context() as patch:
        patch.setattr(stage_of(omni), "_submit", _all_at_once(stage_of(omni)._submit, len(requests)))
        return omni.generate([{"seed": 0, **request} for request in requests], raise_on_error=True)


def equal_to_stock(omni: Omni, request: dict[str, Any], output: Output) -> bool:
    text, waveform = by_stock_generate(omni, request)
    same = output.text == text and bool(output.audio) == (waveform is not None)
    return same and (waveform is None or float(np.abs(output.audio[0][0] - waveform.numpy()).max()) < 1e-4)


def test_three_stages_of_a_deploy_file_are_one_with_replicas_of_parts(
    placed: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [{"prompt": f"say {i}", **SPOKEN, "max_tokens": 6 + i} for i in range(4)]
    outputs = all_together(placed, requests, monkeypatch)
    for request, output in zip(requests, outputs, strict=True):
        assert equal_to_stock(placed, request, output), request
    parts = {part["part"]: part for part in placed.describe()["stages"][0]["parts"]}
    assert {name: len(part["devices"]) for name, part in parts.items()} == {"thinker": 1, "talker": 2, "code2wav": 2}
    for name in ("talker", "code2wav"):
        assert all(engine.stats()["forwards"] for engine in stage_of(placed).parts[name].engines), name


def test_what_a_deploy_file_says_of_a_part_holds(placed: Omni) -> None:
    stage = stage_of(placed)
    assert [engine.config.max_num_seqs for engine in stage.parts["talker"].engines] == [36, 20]  # 16 + 4 + 16, 4 + 16
    output = placed.generate({"prompt": "write"})[0]
    assert output.metrics.num_tokens == 12
    assert stage.args.speech == {"max_tokens": 24, "do_sample": False}


def test_requests_wait_for_room_for_their_keys_and_values_and_what_never_fits_is_refused(placed: Omni) -> None:
    stage, most, waited = stage_of(placed), 0, False
    futures = [placed.submit({"prompt": "x", "max_tokens": 300}) for _ in range(6)]
    while not all(future.done() for future in futures):
        stats = stage.stats()["thinker"]
        most, waited = max(most, stats["kv_bytes"][0]["held"]), waited or stats["waiting_for_room"] > 0
        time.sleep(0.001)
    assert [future.result().error for future in futures] == [None] * 6
    assert waited
    assert 300 * KV_TOKEN < most <= 700 * KV_TOKEN
    refused = placed.generate({"prompt": "x", "max_tokens": 1000})[0].error
    assert isinstance(refused, TooLargeError)
    assert "KiB of keys and values in the thinker; there are" in str(refused)
    assert stage.stats()["thinker"]["kv_bytes"][0]["held"] == 0


def test_an_abort_reaches_what_waits_for_room(placed: Omni) -> None:
    stage = stage_of(placed)
    long = [placed.submit({"prompt": "x", "max_tokens": 600}, request_id=f"long-{i}") for i in range(3)]
    assert all(placed.abort(f"long-{i}") for i in range(3))
    assert [type(future.result(timeout=120).error).__name__ for future in long] == ["AbortedError"] * 3
    assert placed.generate({"prompt": "next"})[0].error is None
    assert stage.stats()["thinker"]["waiting_for_room"] == 0


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", list(SAVE))
def test_a_system_prompt_is_computed_and_kept_once_and_encoders_are_shared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(SAVE[name](tmp_path / "model"))
    config = OmniStageConfig(stage_id=0, stage_type="omni", model=model, engine_args={"system_prompt": SYSTEM})
    requests: list[dict[str, Any]] = [
        {"prompt": "hello", **SPOKEN, "max_tokens": 10},
        {"prompt": "who speaks", "multi_modal_data": {"audio": SOUND}, "max_tokens": 9},
        {"prompt": "who speaks here", "multi_modal_data": {"audio": SOUND[:6000]}, **SPOKEN, "max_tokens": 7},
        {"prompt": "what is it", "multi_modal_data": {"image": PICTURE}, **SPOKEN, "max_tokens": 8},
        {"prompt": "what is that", "multi_modal_data": {"image": PICTURE.resize((84, 112))}, "max_tokens": 6},
    ]
    with Omni(stages=[config]) as omni:
        outputs = all_together(omni, requests, monkeypatch)
        thinker = stage_of(omni).stats()["thinker"]
        assert not thinker["unfused"]
        [prefixes] = thinker["prefixes"]
        assert (prefixes["misses"], prefixes["hits"], prefixes["kept"]) == (1, 4, 1)
        widths = {part: max(thinker["widths"][part]) for part in ("image_encoder", "audio_encoder")}
        assert widths == {"image_encoder": 2, "audio_encoder": 2 if name == "qwen2.5" else 1}
        for request, output in zip(requests, outputs, strict=True):
            assert equal_to_stock(omni, request, output), request
        assert omni.generate({"prompt": "x", "max_tokens": 4})[0].error is None
        assert stage_of(omni).stats()["thinker"]["prefixes"][0]["hits"] == 5


def test_voices_and_lengths_share_the_dits_forwards(folder: Path) -> None:
    stage = OmniModelStage(OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder)))
    spoken = [("Chelsie", torch.arange(30)[None]), ("Ethan", torch.arange(27)[None])]
    try:
        [engine] = stage.parts["code2wav"].engines
        futures = []
        with engine.paused():
            for voice, codes in spoken:
                links = Links()
                links.codes.put(codes)
                links.random.put(Randomness(seed=5))
                links.close()
                request = {"part": "code2wav", "voice": voice, "seed": 0, "links": links, "hear": None}
                futures.append(engine.submit(request))
        waveforms = [future.result(timeout=120) for future in futures]
        assert max(engine.stats()["widths"]["dit"]) == 2
    finally:
        stage.close()
    part, speakers = stage.family.model.token2wav, stage.family.model.speaker_map
    for (voice, codes), waveform in zip(spoken, waveforms, strict=True):
        torch.manual_seed(5)
        with torch.no_grad():
            alone = part(codes, conditioning=speakers[voice]["cond"], reference_mel=speakers[voice]["ref_mel"])
        assert float((waveform - alone.reshape(-1)).abs().max()) < 1e-4


def test_replicas_of_the_whole_model_run_in_processes(folder: Path) -> None:
    config = OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder), replicas=2, device="cpu")
    request = {"prompt": "say it", **SPOKEN, "max_tokens": 6, "seed": 0, "stream_audio": True}
    events: list[Any] = []
    with Omni(stages=[config]) as omni:
        one, other = omni.submit(request, on_progress=events.append), omni.submit(request)
        outputs = [future.result(timeout=120) for future in (one, other)]
        assert [output.error for output in outputs] == [None, None]
        assert omni.describe()["stages"][0]["voices"] == ["Chelsie", "Ethan"]
        assert [place["state"] for place in omni.pipeline.links[0].stage.stats()["replicas"]] == ["up", "up"]
    assert np.array_equal(outputs[0].audio[0], outputs[1].audio[0])
    assert np.array_equal(np.concatenate([one.audio for one in events if one.kind == "audio"]), outputs[0].audio[0][0])


FLAT = """
async_chunk: true
connectors: {shared: {name: SharedMemoryConnector}}
stages:
  - stage_id: 0
    max_num_batched_tokens: 32768
    max_num_seqs: 8
    devices: cpu
    enable_prefix_caching: false
    default_sampling_params: {temperature: 0.0, top_k: -1, max_tokens: 7, seed: 42, repetition_penalty: 1.1}
  - stage_id: 1
    max_num_seqs: 2
    devices: cpu
    input_connectors: {from_stage_0: shared}
    default_sampling_params: {temperature: 0.9, top_k: 40, max_tokens: 20, seed: 42}
  - stage_id: 2
    enforce_eager: true
    enable_flashinfer_autotune: false
    devices: cpu
    default_sampling_params: {temperature: 0.0, top_k: -1, max_tokens: 65536}
platforms: {npu: {stages: [{stage_id: 2, devices: "2"}]}}
"""


def test_a_flat_file_of_vllm_omni_is_the_parts_of_the_model_that_the_command_names(folder: Path) -> None:
    (stage,) = parse_deploy_config(FLAT, model=str(folder))
    with Omni(stages=[stage]) as omni:
        opened = stage_of(omni)
        assert opened.args.speech == {"temperature": 0.9, "top_k": 40, "max_tokens": 20}
        output = omni.generate({"prompt": "say it", "modalities": ("text", "audio")}, raise_on_error=True)[0]
        assert output.metrics.num_tokens == 7
        assert output.audio
        [engine] = {id(engine): engine for part in opened.parts.values() for engine in part.engines}.values()
        assert engine.config.max_num_seqs == 8 + 2 + 16  # parts on one device are in one engine


def test_a_flat_file_of_three_stages_is_refused_for_a_model_without_parts(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match="3 stages say no stage_type and model"):
        parse_deploy_config(FLAT, model=str(tmp_path))
    with pytest.raises(InvalidRequestError, match="line 7: tensor_parallel_size is 8"):
        parse_deploy_config(FLAT.replace("max_num_seqs: 8", "tensor_parallel_size: 8"), model="Qwen/Qwen2.5-Omni-7B")


def test_parts_on_one_device_share_what_is_given_to_none_of_them() -> None:
    thinker, talker = PartNeeds("thinker", 10, 50, None), PartNeeds("talker", 5, None, 12)
    code2wav = PartNeeds("code2wav", 5, None, None)
    rooms = rooms_on("cuda:0", 100, 10, [thinker, talker, code2wav])
    assert rooms == [PartRoom(20, 20), PartRoom(12, 13), PartRoom(12, 13)]  # 40 named; (100 - 10 - 40) / 2 for each
    assert rooms_on("cpu", None, 0, [thinker, talker]) == [PartRoom(20, 20), PartRoom(12, None)]
    with pytest.raises(InvalidRequestError, match="cuda:0 has 30 bytes beside the weights of its 2 parts, of which 40"):
        rooms_on("cuda:0", 30, 10, [thinker, talker])
    with pytest.raises(InvalidRequestError, match="the thinker's weights take 50 bytes, its memory budget is 50"):
        rooms_on("cuda:0", 100, 10, [PartNeeds("thinker", 50, 50, None)])


def test_a_part_with_a_budget_keeps_to_it_beside_parts_without(folder: Path) -> None:
    args = {"parts": {"thinker": {"memory_budget": "200MiB"}}}
    stage = OmniModelStage(OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder), engine_args=args))
    try:
        thinker, talker = stage.parts["thinker"], stage.parts["talker"]
        assert (
            thinker.engines[0].stats()["memory"]["budget_bytes"] + thinker.stats()["kv_bytes"][0]["budget"]
            < 200 * 2**20
        )
        assert talker.engines[0].stats()["memory"]["budget_bytes"] is None
        assert talker.engines == stage.parts["code2wav"].engines
    finally:
        stage.close()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("model_stage: thinker", "model_stage: talker", "line 7: the stages' model_stage are talker, talker, code2wav"),
        ("replicas: 2\n  engine", "replicas: 0\n  engine", "replicas is 0"),
        ("devices: [cpu, cpu]", "devices: [cpu, cpu, cpu]", "names 3 devices for 2 replicas"),
        ("max_num_seqs: 4", "max_num_sqs: 4", "line 14: talker has an unknown key 'max_num_sqs'"),
        ("- stage_id: 2\n", "- stage_id: 2\n  model: other\n", "line 17: code2wav's model is 'other'"),
        ("{{devices: [cpu, cpu], num_replicas: 2}}", "{{gpus: 2}}", "line 13: runtime has an unknown key 'gpus'"),
    ],
)
def test_deploy_files_that_make_no_sense_are_refused_with_the_line(old: str, new: str, words: str) -> None:
    assert old in PARTS
    with pytest.raises(InvalidRequestError) as refused:
        parse_deploy_config(PARTS.replace(old, new).format(model="some/model", kv=1))
    assert words in str(refused.value)


def test_replicas_of_the_whole_beside_places_of_parts_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="expected one of the two"):
        OmniStageConfig(stage_id=0, stage_type="omni", model="m", replicas=2,
                        engine_args={"parts": {"talker": {"device": "cuda:1"}}})  # fmt: skip


def test_a_budget_that_the_weights_fill_is_refused_by_name(folder: Path) -> None:
    args = {"parts": {"talker": {"memory_budget": 1000}}}
    with pytest.raises(InvalidRequestError, match="raise it"):
        OmniModelStage(OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder), engine_args=args))
