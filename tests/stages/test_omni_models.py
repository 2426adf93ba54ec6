"""Omni-modal models against stock `generate` alone: the same tokens, the same sound, whatever runs beside it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from interlace import Omni
from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError
from interlace.request import Output, Progress
from interlace.stages.config import OmniStageConfig
from interlace.stages.omni.models.qwen3 import Qwen3Omni
from interlace.stages.omni.stage import OmniModelStage
from tests.stages.omni_models import save_qwen2_5_omni, save_qwen3_omni

SAVE = {"qwen2.5": save_qwen2_5_omni, "qwen3": save_qwen3_omni}
PICTURE = Image.linear_gradient("L").resize((56, 84)).convert("RGB")
SOUND = np.sin(np.arange(8000) / 9).astype(np.float32)
FILM = [PICTURE.rotate(20 * i) for i in range(4)]
GREEDY = {"do_sample": False, "max_tokens": 24}
SPOKEN: dict[str, Any] = {"modalities": ("text", "audio"), "speech": GREEDY}
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "say it", **SPOKEN, "voice": "Chelsie", "max_tokens": 12},
    {
        "prompt": "say something longer than that",
        **SPOKEN,
        "voice": "Ethan",
        "max_tokens": 20,
        "speech": {"do_sample": False, "max_tokens": 23},
    },
    {"prompt": "what is it", "multi_modal_data": {"image": PICTURE}, "max_tokens": 16},
    {"prompt": "what is it", "multi_modal_data": {"image": [PICTURE, PICTURE]}, **SPOKEN, "max_tokens": 9},
    {"prompt": "who speaks", "multi_modal_data": {"audio": SOUND}, **SPOKEN, "voice": "Ethan", "max_tokens": 14},
    {"prompt": "what happens", "multi_modal_data": {"video": FILM}, **SPOKEN, "max_tokens": 11},
    {"prompt": "what happens", "multi_modal_data": {"video": FILM[:2], "audio": SOUND}, "max_tokens": 8},
    {"prompt": "sing", **SPOKEN, "speech": {"max_tokens": 24}, "seed": 7, "max_tokens": 10},
]


@pytest.fixture(scope="module", params=list(SAVE))
def omni(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Omni]:
    folder = SAVE[request.param](tmp_path_factory.mktemp("omni") / request.param)
    with Omni(stages=[config(folder)]) as opened:
        yield opened


def config(folder: Path, **options: Any) -> OmniStageConfig:
    return OmniStageConfig(stage_id=0, stage_type="omni", model=str(folder), **options)


def stage_of(omni: Omni) -> OmniModelStage:
    stage = omni.pipeline.links[0].stage
    assert isinstance(stage, OmniModelStage)
    return stage


def by_stock_generate(omni: Omni, request: dict[str, Any]) -> tuple[str, torch.Tensor | None]:
    """What the model's own `generate` makes of one request, alone."""
    from interlace.stages.parse import parse

    stage = stage_of(omni)
    model, inputs = stage.family.model, stage.inputs.make(parse(request, None, omni.configs, "alone"))
    speech = dict(request.get("speech", {}))
    options = {"thinker_max_new_tokens": request["max_tokens"], "talker_max_new_tokens": speech.pop("max_tokens", 24)}
    options |= {f"talker_{name}": value for name, value in speech.items()}
    if "thinker_eos_token_id" in type(model).generate.__code__.co_varnames[:20]:
        options["thinker_eos_token_id"] = model.thinker.generation_config.eos_token_id
    spoken = "audio" in request.get("modalities", ())
    voice = request.get("voice", stage.voices()[0])
    torch.manual_seed(request.get("seed", 0))
    with pytest.MonkeyPatch.context() as patch:
        if "pixel_values" in inputs or "pixel_values_videos" in inputs:  # the stock model hands them to its talker
            patch.setattr(model.talker, "generate", _without_pixels(model.talker.generate))
        made = model.generate(**inputs, speaker=voice, generation_mode="audio" if spoken else "text", **options)
    ids, waveform = made if spoken else (made, None)
    written = ids[0, inputs["input_ids"].shape[1] :]
    text = stage.inputs.tokenizer.decode(written, skip_special_tokens=True)
    return text, None if waveform is None else waveform.reshape(-1)


def _without_pixels(generate: Any) -> Any:
    """Qwen2.5-Omni's own `generate` fails on them, in the transformers that this was written against."""
    unused = ("pixel_values", "pixel_values_videos")
    return lambda **kwargs: generate(**{name: value for name, value in kwargs.items() if name not in unused})


def _all_at_once(submit: Any, count: int) -> Any:
    """However slowly media are read: the parts get all requests together."""
    held: list[Any] = []

    def hold(*work: Any) -> None:
        held.append(work)
        if len(held) == count:
            for one in held:
                submit(*one)

    return hold


@pytest.mark.usefixtures("wide")
def test_eight_requests_together_equal_stock_generate_alone_and_share_forwards(
    omni: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: dict(part["forwards"]) for name, part in stage_of(omni).stats().items()}
    alone = [by_stock_generate(omni, request) for request in REQUESTS]
    monkeypatch.setattr(stage_of(omni), "_submit", _all_at_once(stage_of(omni)._submit, len(REQUESTS)))
    together = omni.generate([{"seed": 0, **request} for request in REQUESTS], raise_on_error=True)
    for output, (text, waveform) in zip(together, alone, strict=True):
        assert output.text == text
        assert bool(output.audio) == (waveform is not None)
        if waveform is not None:
            assert output.sample_rate == 24000
            assert output.audio[0].shape == (1, len(waveform))
            assert float(waveform.abs().max()) > 0.01
            assert float((torch.from_numpy(output.audio[0][0]) - waveform).abs().max()) < 1e-4
    stats = stage_of(omni).stats()
    assert all(not part["unfused"] for part in stats.values()), {name: part["unfused"] for name, part in stats.items()}
    for part, module, tokens in (("thinker", "thinker", 100), ("talker", "talker", 143)):
        forwards = stats[part]["forwards"][module] - before[part].get(module, 0)
        assert forwards < 0.75 * tokens, (module, stats[part]["widths"])  # of so many, alone
    assert stats["code2wav"]["forwards"]


def test_a_films_own_sound_is_heard_as_stock_generate_hears_it(omni: Omni) -> None:
    pytest.importorskip("av")
    from tests.serve.test_speaking import film_file

    media = {"video": film_file(2.5, sound=True, side=56), "use_audio_in_video": True}
    written = {"prompt": "what is it", "multi_modal_data": media, "max_tokens": 9}
    spoken = {**written, **SPOKEN}
    outputs = omni.generate([{"seed": 0, **written}, {"seed": 0, **spoken}])
    assert outputs[0].text == by_stock_generate(omni, written)[0]
    if isinstance(stage_of(omni).family, Qwen3Omni):  # whose stock talker fails on it
        assert "can't speak about a film that it hears" in str(outputs[1].error)
    else:
        text, waveform = by_stock_generate(omni, spoken)
        assert waveform is not None
        assert outputs[1].text == text
        assert float((torch.from_numpy(outputs[1].audio[0][0]) - waveform).abs().max()) < 1e-4


def test_text_alone_never_reaches_talker_or_code2wav(omni: Omni) -> None:
    before = {name: dict(part["forwards"]) for name, part in stage_of(omni).stats().items()}
    assert omni.generate({"prompt": "write", "max_tokens": 4})[0].audio == []
    after = {name: dict(part["forwards"]) for name, part in stage_of(omni).stats().items()}
    assert after["talker"] == before["talker"]
    assert after["code2wav"] == before["code2wav"]
    assert after["thinker"] != before["thinker"]


def test_the_first_sound_comes_before_the_last_word(omni: Omni) -> None:
    request = {"prompt": "tell", "modalities": ("text", "audio"), "max_tokens": 200, "stream_audio": True,
               "speech": {**GREEDY, "max_tokens": 60}}  # fmt: skip
    early, end = False, time.monotonic() + 300
    while not early and time.monotonic() < end:  # parts run side by side: on a busy machine one may be held up
        events: list[Progress] = []
        output = omni.submit(request, on_progress=events.append).result(timeout=300)
        assert output.error is None
        heard = np.concatenate([event.audio for event in events if event.kind == "audio"])
        assert np.array_equal(heard, output.audio[0][0])
        assert "".join(event.text or "" for event in events) == output.text
        kinds = [event.kind for event in events]
        early = kinds.index("audio") < len(kinds) - 1 - kinds[::-1].index("text")
    assert early


def test_a_request_with_one_stop_text_ends_before_it(omni: Omni) -> None:
    whole = omni.generate({"prompt": "write", "max_tokens": 12})[0].text
    assert whole
    stop = whole[len(whole) // 2 :][:2]
    output = omni.generate({"prompt": "write", "max_tokens": 12, "stop": (stop,)})[0]
    assert output.text == whole[: whole.find(stop)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"prompt": "x", "modalities": ("audio",), "voice": "nobody"}, "expected one of"),
        ({"prompt": "x", "multi_modal_data": {"audio": b"RIFFnot a wave"}}, "no WAV file"),
        ({"prompt": "x", "multi_modal_data": {"video": b"nothing"}}, "film"),
        ({"prompt": "x", "multi_modal_data": {"smell": 3}}, "takes image, audio, video"),
        ({"prompt": "x", "max_tokens": 5000}, "ask for less"),
        ({"prompt": "x", "modalities": ("smell",)}, "expected text, audio or both"),
        ({"prompt": "x", "speech": {"speed": 3}}, "expected a mapping with some of"),
        ({}, "neither a prompt nor media"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(omni: Omni, request_: dict[str, Any], words: str) -> None:
    beside = omni.submit({"prompt": "beside", "max_tokens": 6})
    output = omni.generate(request_)[0]
    assert isinstance(output.error, InvalidRequestError)
    assert words in str(output.error)
    assert beside.result(timeout=120).error is None


@pytest.mark.parametrize("part", ["thinker", "talker", "code2wav"])
def test_a_failure_at_any_part_is_that_requests_alone(omni: Omni, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, count = stage_of(omni)._run, iter(range(100))
    name = {"thinker": "thought", "talker": "talk", "code2wav": "sound"}[part]
    stock = getattr(run.family, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() and next(count) == 0:
            raise RuntimeError("it broke")
        return stock(*args, **kwargs)

    monkeypatch.setattr(run.family, name, failing)
    requests = [{"prompt": "one", **SPOKEN, "max_tokens": 6}, {"prompt": "two", **SPOKEN, "max_tokens": 6}]
    outputs = omni.generate(requests)
    failed = [output for output in outputs if output.error is not None]
    assert [str(output.error) for output in failed] == ["it broke"]
    assert sum(bool(output.audio) for output in outputs) == 1
    assert not stage_of(omni)._live


def test_an_abort_ends_all_parts_and_frees_them(omni: Omni) -> None:
    heard = threading.Event()
    request = {"prompt": "talk", "modalities": ("text", "audio"), "max_tokens": 2000, "stream_audio": True}
    future = omni.submit(request, request_id="endless", on_progress=lambda _: heard.set())
    assert heard.wait(120)
    assert omni.abort("endless")
    assert isinstance(future.result(timeout=120).error, AbortedError)
    assert omni.generate({"prompt": "next", **SPOKEN, "max_tokens": 5})[0].error is None
    assert not stage_of(omni)._live


def test_closing_ends_what_is_pending(tmp_path: Path) -> None:
    omni = Omni(stages=[config(save_qwen2_5_omni(tmp_path / "model"), engine_args={"voice": "Ethan"})])
    pending = omni.submit({"prompt": "talk", "modalities": ("text", "audio"), "max_tokens": 2000})
    omni.close()
    output: Output = pending.result(timeout=120)
    assert isinstance(output.error, EngineClosedError)
    with pytest.raises(EngineClosedError):
        omni.generate("more")
