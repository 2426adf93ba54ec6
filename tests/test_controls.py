"""ControlNets, T2I-Adapters and IP-Adapters by request: as stock diffusers has them, in shared forwards."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
)
from PIL import Image

from interlace import Engine, Omni, SamplingParams
from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run
from interlace.errors import InvalidRequestError, UnknownAdapterError
from interlace.extras import Extras
from interlace.models.controls.library import ControlLibrary
from interlace.models.controls.loading import family_of, sibling
from tests.checkpoints import save_ip_adapter
from tests.test_families import TOLERANCE, difference, stock
from tests.zoo import FAMILIES
from tests.zoo.family import picture, randomise_zero_parameters, seeded
from tests.zoo.ip import save_flux_ip_adapter
from tests.zoo.stable_diffusion import controlnet, tiny

STEPS = 4


def call(number: int, **more: Any) -> dict[str, Any]:
    own = FAMILIES["sd15-ddim"].requests()[number]
    return {**own, "height": 32, "width": 32, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more}


def test_siblings_with_two_controlnets_or_none_share_the_denoisers_forwards() -> None:
    base = tiny()
    nets = [controlnet(seed) for seed in (1, 2)]
    siblings: list[Any] = [
        StableDiffusionControlNetPipeline.from_pipe(base, controlnet=net) for net in (nets[0], nets[1], nets)
    ]
    asked = [
        (None, call(0)),
        (siblings[0], call(1, image=picture(1), controlnet_conditioning_scale=0.8)),
        (siblings[1], call(2, image=picture(2), control_guidance_end=0.5)),
        (siblings[2], call(3, image=[picture(3), picture(4)], controlnet_conditioning_scale=[0.5, 1.2])),
        (None, call(4)),
    ]
    for one in siblings:
        one.set_progress_bar_config(disable=True)
    alone = [(pipeline or base)(**fresh(kwargs)) for pipeline, kwargs in asked]
    assert difference(alone[1], base(**call(1))) > 10 * TOLERANCE  # the tiny ControlNet has something to say
    with Engine(base, max_batch_rows=None) as engine:
        with pytest.raises(InvalidRequestError, match="call adopt first"):
            engine.submit(call(0), pipeline=siblings[0])
        for one in siblings:
            engine.adopt(one)
        for _ in range(2):  # the first time is checked, and runs more
            before = dict(engine.stats()["forwards"])
            with engine.paused():  # all of them start together
                futures = [engine.submit(fresh(kwargs), pipeline=pipeline) for pipeline, kwargs in asked]
            outputs = [future.result(timeout=120) for future in futures]
        stats = engine.stats()
    for output, expected in zip(outputs, alone, strict=True):
        assert difference(output, expected) < TOLERANCE
    assert stats["unfused"] == {}
    ran = {name: stats["forwards"][name] - before.get(name, 0) for name in stats["forwards"]}
    assert ran["unet"] <= STEPS + 1, ran


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion (sd), two ControlNets for it, a T2I-Adapter and an IP-Adapter."""
    folder = tmp_path_factory.mktemp("controls")
    tiny().save_pretrained(folder / "sd")
    for seed, name in enumerate(("canny", "depth"), 1):
        controlnet(seed).save_pretrained(folder / name)
    with seeded(3):
        T2IAdapter(channels=(8, 16), num_res_blocks=1, downscale_factor=2).save_pretrained(folder / "sketch")
    save_ip_adapter(tiny().unet, folder)
    return folder


def extras(files: Path, *names: str) -> Extras:
    nets = {name: str(files / name) for name in names if name != "face"}
    return Extras(controlnet=nets, ip_adapter={"face": str(files / "ip.safetensors")} if "face" in names else ())


def test_requests_name_controls_and_get_what_stock_pipelines_give(files: Path) -> None:
    pipeline = tiny()
    library = ControlLibrary(pipeline, extras(files, "canny", "sketch", "face"))
    face, sketch = {"name": "face", "image": picture(7)}, {"name": "sketch", "image": picture(8), "scale": 0.7}
    asked: list[dict[str, Any]] = [
        {},
        {"ip_adapter": face},
        {"ip_adapter": {**face, "scale": 0.4}},
        {"controlnet": {"name": "canny", "image": picture(1), "scale": 0.9, "end": 0.6}, "ip_adapter": face},
    ]
    with Engine(pipeline, max_batch_rows=None) as engine:
        library.engine = engine
        controlled = [library.take(SamplingParams(**one)) for one in asked]
        for _ in range(3):  # with and without a ControlNet meet in the second round, and are checked
            before = engine.stats()["forwards"].get("unet", 0)
            with engine.paused():  # all of them start together
                futures = [
                    engine.submit(one.kwargs(call(i), frozenset()), pipeline=one.pipeline, outfit=one.outfit)
                    for i, one in enumerate(controlled)
                ]
            outputs = [future.result(timeout=120) for future in futures]
        forwards = engine.stats()["forwards"]["unet"] - before
        with pytest.raises(InvalidRequestError, match="takes no IP-Adapters"):
            library.take(SamplingParams(controlnet=sketch, ip_adapter=face))
    assert forwards <= 2 * STEPS  # three scales: 0, 0.4 and 1, and a ControlNet
    net = ControlNetModel.from_pretrained(files / "canny")
    for i, (one, output) in enumerate(zip(asked, outputs, strict=True)):
        pipe: Any = tiny()
        more: dict[str, Any] = {}
        if "controlnet" in one:
            pipe = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=net)
            more = {"image": picture(1), "controlnet_conditioning_scale": 0.9, "control_guidance_end": 0.6}
        if "ip_adapter" in one:
            pipe.load_ip_adapter(str(files), subfolder="", weight_name="ip.safetensors")
            pipe.set_ip_adapter_scale(one["ip_adapter"].get("scale", 1.0))
            more["ip_adapter_image"] = picture(7)
        assert difference(output, pipe(**call(i, **more))) < TOLERANCE
    assert difference(outputs[1], tiny()(**call(1))) > 10 * TOLERANCE


def test_ip_adapters_of_flux_share_forwards_at_different_scales(tmp_path: Path) -> None:
    pipeline: Any = FAMILIES["flux"].build()
    save_flux_ip_adapter(pipeline, tmp_path)
    library = ControlLibrary(pipeline, Extras(ip_adapter={"face": str(tmp_path / "flux-ip.safetensors")}))
    scales = [None, 0.3, 1.0, 0.3]

    def own(number: int) -> dict[str, Any]:
        request = FAMILIES["flux"].requests()[0] | {"prompt": f"number {number}", "num_inference_steps": STEPS}
        return request | {"height": 32, "width": 32, "generator": torch.Generator().manual_seed(number)}

    with Engine(pipeline, max_batch_rows=None, join_equal=False) as engine:
        library.engine = engine
        shown = [None if one is None else {"name": "face", "image": picture(7), "scale": one} for one in scales]
        controlled = [library.take(SamplingParams(ip_adapter=one)) for one in shown]
        for _ in range(3):
            before = engine.stats()["forwards"].get("transformer", 0)
            asked = [(one.kwargs(own(i), frozenset()), one.outfit) for i, one in enumerate(controlled)]
            with engine.paused():  # all of them start together
                futures = [engine.submit(kwargs, outfit=outfit) for kwargs, outfit in asked]
            outputs = [future.result(timeout=120) for future in futures]
        stats = engine.stats()
    assert stats["forwards"]["transformer"] - before <= 2 * STEPS, stats["unfused"]  # of three scales
    stock_pipe: Any = FAMILIES["flux"].build()
    plain = [stock(stock_pipe, own(i)) for i in range(len(scales))]
    stock_pipe.load_ip_adapter(
        str(tmp_path),
        weight_name="flux-ip.safetensors",
        image_encoder_pretrained_model_name_or_path=str(tmp_path / "image_encoder"),
        image_encoder_dtype=torch.float32,
    )
    for i, (scale, output) in enumerate(zip(scales, outputs, strict=True)):
        if scale is None:
            assert difference(output, plain[i]) < TOLERANCE
            continue
        stock_pipe.set_ip_adapter_scale(scale)
        assert difference(output, stock(stock_pipe, own(i) | {"ip_adapter_image": picture(7)})) < TOLERANCE
        assert difference(output, plain[i]) > 10 * TOLERANCE


def test_a_t2i_adapter_shares_with_requests_that_have_none(files: Path) -> None:
    pipeline = tiny(crossing_first=True)
    library = ControlLibrary(pipeline, extras(files, "sketch"))
    with Engine(pipeline, max_batch_rows=None) as engine:
        library.engine = engine
        one = library.take(SamplingParams(controlnet={"name": "sketch", "image": picture(8), "scale": 0.7}))
        for _ in range(2):
            before = engine.stats()["forwards"].get("unet", 0)
            kwargs = one.kwargs(call(1), frozenset())
            with engine.paused():  # all of them start together
                futures = [engine.submit(kwargs, pipeline=one.pipeline), engine.submit(call(0))]
            outputs = [future.result(timeout=120) for future in futures]
        stats = engine.stats()
    assert stats["forwards"]["unet"] - before <= STEPS + 1, stats["unfused"]
    adapter = T2IAdapter.from_pretrained(files / "sketch")
    sketched = StableDiffusionAdapterPipeline.from_pipe(tiny(crossing_first=True), adapter=adapter)
    alone = sketched(**call(1, image=picture(8), adapter_conditioning_scale=0.7))
    assert difference(outputs[0], alone) < TOLERANCE
    assert difference(alone, tiny(crossing_first=True)(**call(1))) > 10 * TOLERANCE


def test_rows_and_python_name_controls_and_what_is_wrong_is_said(files: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        picture(number).save(tmp_path / f"{number}.png")
    rows = [
        {"prompt": "a", "controlnet": {"name": "canny", "image": "1.png", "scale": 0.5}},
        {"prompt": "a", "controlnet": [{"name": "canny", "image": "1.png"}, {"name": "depth", "image": "2.png"}]},
        {"prompt": "a"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--model-name", str(files / "sd"), "--controlnet", f"canny={files / 'canny'}", "--device", "cpu"]
    flags += ["--controlnet", f"depth={files / 'depth'}", "--num-inference-steps", "2", "--seed", "3"]
    out = ["--output-dir", str(tmp_path / "out"), "--height", "32", "--width", "32"]
    assert run(["t2i", "--prompts-file", str(tmp_path / "rows.jsonl"), *flags, *out]) == 0
    records = sorted(read_manifest(tmp_path / "out"), key=lambda record: record["id"])
    assert len({(tmp_path / "out" / one["file"]).read_bytes() for one in records}) == 3
    assert records[0]["controlnet"] == [{"name": "canny", "scale": 0.5}]
    assert records[0]["input_sha256"]
    given = {"prompt": "a", "controlnet": {"name": "canny", "image": str(tmp_path / "1.png"), "scale": 0.5}}
    params = {"height": 32, "width": 32, "num_inference_steps": 2, "seed": records[0]["seed"]}
    with Omni(files / "sd", controlnet=f"canny={files / 'canny'}", device="cpu") as omni:
        good, unknown = omni.generate(
            [given, {"prompt": "a", "controlnet": {"name": "x", "image": picture(1)}}], params
        )
    with Image.open(tmp_path / "out" / records[0]["file"]) as drawn:  # beside two others, so to rounding
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(good.image)).max() <= 1
    assert isinstance(unknown.error, UnknownAdapterError)
    assert "known are canny" in str(unknown.error)


@pytest.mark.parametrize(("name", "shares"), [("sdxl", True), ("flux", True), ("sd3.5", True), ("qwen-image", True)])
def test_other_families_with_and_without_a_controlnet(name: str, *, shares: bool) -> None:
    base = FAMILIES[name].build()
    family, denoiser = family_of(base), FAMILIES[name].denoisers[0]
    with seeded(1):
        make = getattr(diffusers, family.controlnet)
        model = getattr(base, denoiser)
        takes = inspect.signature(make.__init__).parameters
        shape = {key: value for key, value in model.config.items() if key in takes} | LAYERS.get(name, {})
        small = {"conditioning_embedding_out_channels": (2, 4)}
        net = make.from_unet(model, **small) if denoiser == "unet" else make(**shape)
        randomise_zero_parameters(net)
    pipeline = sibling(base, family.with_controlnet, controlnet=net.eval())
    own = FAMILIES[name].requests()[0] | {"height": 32, "width": 32, "num_inference_steps": STEPS}
    image = "image" if name == "sdxl" else "control_image"
    more = {image: picture(3), "controlnet_conditioning_scale": 0.9}
    asked: list[Any] = [(None, own), (pipeline, own | more), (pipeline, own | more | {"control_guidance_end": 0.5})]
    alone = [stock(one or base, fresh(kwargs)) for one, kwargs in asked]
    assert difference(alone[0], alone[1]) > 10 * TOLERANCE
    with Engine(base, max_batch_rows=None) as engine:
        engine.adopt(pipeline)
        for _ in range(2):
            before = engine.stats()["forwards"].get(denoiser, 0)
            with engine.paused():  # all of them start together
                futures = [engine.submit(fresh(kwargs), pipeline=one) for one, kwargs in asked]
            outputs = [future.result(timeout=120) for future in futures]
        stats = engine.stats()
    assert max(map(difference, outputs, alone)) < TOLERANCE
    calls = 2 if "true_cfg_scale" in own else 1  # of the denoiser, a step
    assert not shares or stats["forwards"][denoiser] - before < 3 * calls * STEPS, stats["unfused"]


def union_of(base: Any, family: str, folder: Path) -> None:
    """A tiny ControlNet of four kinds of pictures, saved."""
    kind = diffusers.ControlNetUnionModel if family == "sdxl" else diffusers.FluxControlNetModel
    model = base.unet if family == "sdxl" else base.transformer
    takes = inspect.signature(kind.__init__).parameters
    width = model.config.get("block_out_channels", (0,))[0]
    own: dict[str, Any] = {
        "sdxl": {
            "conditioning_embedding_out_channels": (2, 4),
            "num_control_type": 4,
            "num_trans_channel": width,
            "num_proj_channel": width,
            "num_trans_head": 2,
        },
        "flux": {"num_mode": 4, **LAYERS["flux"]},
    }[family]
    with seeded(1):
        net = kind(**{name: value for name, value in model.config.items() if name in takes} | own)
        randomise_zero_parameters(net)
    net.save_pretrained(folder)


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_a_controlnet_of_several_modes_takes_them_by_number(family: str, tmp_path: Path) -> None:
    base: Any = FAMILIES[family].build()
    union_of(base, family, tmp_path / "union")
    library = ControlLibrary(base, Extras(controlnet={"union": str(tmp_path / "union")}))
    own = FAMILIES[family].requests()[0] | {"height": 32, "width": 32, "num_inference_steps": STEPS}
    one = [{"name": "union", "image": picture(3), "scale": 0.9, "mode": mode} for mode in (1, 3)]
    asked: list[Any] = [None, one[0], one[1], *([one] if family == "sdxl" else [])]
    with Engine(base, max_batch_rows=None) as engine:
        library.engine = engine
        controlled = [library.take(SamplingParams(controlnet=choice)) for choice in asked]
        futures = [
            engine.submit(each.kwargs(fresh(own), frozenset()), pipeline=each.pipeline, outfit=each.outfit)
            for each in controlled
        ]
        outputs = [future.result(timeout=120) for future in futures]
        assert not engine.stats()["unfused"]
        for wrong, said in ((None, "mode is None; expected 0 to 3"), (4, "mode is 4; expected 0 to 3")):
            with pytest.raises(InvalidRequestError, match=said):
                library.take(SamplingParams(controlnet={"name": "union", "image": picture(3), "mode": wrong}))
        if family == "flux":
            with pytest.raises(InvalidRequestError, match="several modes go with one SDXL ControlNet"):
                library.take(SamplingParams(controlnet=one))
    stock_pipe = controlled[1].pipeline or base
    for choice, output in zip(asked[1:], outputs[1:], strict=True):
        modes = [each["mode"] for each in choice] if isinstance(choice, list) else choice["mode"]
        pictures = [picture(3)] * len(modes) if isinstance(modes, list) else picture(3)
        more = {"control_image": pictures, "control_mode": modes, "controlnet_conditioning_scale": 0.9}
        assert difference(output, stock(stock_pipe, fresh(own | more))) < TOLERANCE
    for i, output in enumerate(outputs):
        assert all(difference(output, other) > 5 * TOLERANCE for other in outputs[:i])


LAYERS: dict[str, dict[str, Any]] = {
    "flux": {"num_layers": 1, "num_single_layers": 1},
    "sd3.5": {"num_layers": 1, "dual_attention_layers": ()},
    "qwen-image": {"num_layers": 1},
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a"}, "has no image"),
        ({"image": 1}, "has no name"),
        ({"name": "a", "image": 1, "start": 0.5, "end": 0.2}, "in order"),
        ({"name": "a", "image": 1, "type": 2}, "'type'"),
        ({"name": "a", "image": 1, "mode": "canny"}, "mode is 'canny'; expected a number"),
        ("{", "no JSON"),
        (3, "is a int"),
    ],
)
def test_wrong_controls_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        SamplingParams(controlnet=given)
    assert caught.value.param == "controlnet"


def fresh(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same call with a generator that was not drawn from."""
    return {**kwargs, "generator": torch.Generator().manual_seed(kwargs["generator"].initial_seed())}
