"""Pictures and films of different sizes in one forward: exact, within the padding that is allowed, for every family."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.transformers import transformer_flux

from interlace import Engine
from interlace.engine.calls.packing.packers import PACKINGS
from tests.test_families import arrays, stock
from tests.zoo import FAMILIES
from tests.zoo.family import picture

SIZES = [(128, 128), (112, 128), (128, 112), (128, 120), (120, 128)]  # within 13% of each other
PACKED = [
    *("flux", "flux-kontext", "longcat-image", "ovis-image", "qwen-image", "qwen-image-edit"),
    *("sd3.5", "sd3.5-img2img", "sd3.5-inpaint"),
    *("wan", "wan-2.2", "wan-i2v", "wan-ti2v", "ltx", "ltx-i2v", "hunyuan-video"),
]
# Height, width and frames, in close numbers of tokens; six each.
FILMS = {
    "wan": [(32, 32, 13), (32, 48, 9), (48, 32, 9), (32, 32, 13), (48, 48, 5), (64, 64, 1)],
    "hunyuan-video": [(32, 32, 13), (48, 32, 9), (32, 48, 9), (32, 32, 13), (48, 48, 5), (64, 64, 1)],
    "ltx": [(64, 64, 17), (64, 96, 9), (96, 64, 9), (64, 64, 17), (96, 96, 9), (64, 96, 9)],
}


def films(name: str) -> list[tuple[int, int, int]]:
    """Sizes and lengths for a family of films; none for one of pictures."""
    return next((sizes for start, sizes in FILMS.items() if name.startswith(start)), [])


def requests(name: str) -> list[dict[str, Any]]:
    """The family's first request at several sizes, each with its own seed; of films, prompt and guidance differ too."""
    made = []
    for number, (height, width, *frames) in enumerate(films(name) or SIZES):
        own = FAMILIES[name].requests()
        kwargs = own[number % len(own)] if frames else own[0]
        kwargs |= {"height": height, "width": width, "num_inference_steps": 3}
        if frames:
            kwargs["num_frames"] = frames[0]
        if frames and "image" in kwargs:
            kwargs["image"] = picture(number, (width, height))
        kwargs["generator"] = torch.Generator().manual_seed(number)
        made.append(kwargs)
    return made


def run(pipeline: DiffusionPipeline, name: str, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    with Engine(pipeline, max_batch_rows=None, **options) as engine:  # "auto" packs where it was measured to pay
        engine.map(requests(name))  # verifies
        before = engine.stats()["forwards"]["transformer"]
        results = engine.map(requests(name))
        stats = engine.stats()
    return results, {**stats, "denoised": stats["forwards"]["transformer"] - before}


@pytest.mark.parametrize("name", PACKED)
def test_close_sizes_share_forwards_and_stay_exact(name: str) -> None:
    pipeline = FAMILIES[name].build()
    results, stats = run(pipeline, name, resolution_tolerance=0.15)
    assert stats["unfused"] == {}
    alone = run(pipeline, name, resolution_tolerance=0.0)[1]["denoised"]
    assert stats["denoised"] * 2 <= alone
    for kwargs, result in zip(requests(name), results, strict=True):
        for got, expected in zip(arrays(result), arrays(stock(pipeline, kwargs)), strict=True):
            assert got.shape == expected.shape
            assert float(np.abs(got - expected).max()) < 1e-4


def test_a_text_as_long_as_the_padded_tokens_is_attended_to_as_a_whole() -> None:
    pipeline = FAMILIES["wan"].build()
    made = [{**kwargs, "max_sequence_length": 18, "guidance_scale": 1.0} for kwargs in requests("wan")[:3]]
    expected = [stock(pipeline, dict(kwargs)) for kwargs in made]
    for kwargs, seed in zip(made, range(3), strict=True):
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    with Engine(pipeline, max_batch_rows=None, resolution_tolerance=0.15, verify_fusion="off") as engine:
        results = engine.map(made)
        assert engine.stats()["mean_rows"]["transformer"] == 3  # 16 and 18 tokens each, and texts of 18
    for result, own in zip(results, expected, strict=True):
        assert float(np.abs(arrays(result)[0] - arrays(own)[0]).max()) < 1e-4


@pytest.mark.parametrize(("tolerance", "num_forwards"), [(0.01, 3), (0.0, 6)])
def test_one_shape_turned_round_shares_without_padding_and_not_at_all_without_tolerance(
    tolerance: float, num_forwards: int
) -> None:
    pipeline = FAMILIES["flux"].build()
    made = [
        {**kwargs, "height": h, "width": 192 - h} for kwargs, h in zip(requests("flux")[:2], [64, 128], strict=True)
    ]
    with Engine(pipeline, max_batch_rows=None, resolution_tolerance=tolerance) as engine:
        for _ in range(2):  # verifies; then once more where a bit of what was equal has come to differ
            engine.map([dict(kwargs) for kwargs in made])
        before = engine.stats()["forwards"]["transformer"]
        engine.map(made)
        assert engine.stats()["forwards"]["transformer"] - before == num_forwards


def test_rotary_tables_are_made_once_for_all_steps_of_requests_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, counts = FAMILIES["flux"].build(), Counter[str]()
    make = transformer_flux.get_1d_rotary_pos_embed

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts["made"] += 1
        return make(*args, **kwargs)

    monkeypatch.setattr(transformer_flux, "get_1d_rotary_pos_embed", counted)
    equal = {"height": 128, "width": 128}
    expected = [stock(pipeline, kwargs | equal) for kwargs in requests("flux")[:2]]
    assert counts["made"] == 2 * 3 * 3  # requests, steps, axes
    counts.clear()
    with Engine(pipeline, max_batch_rows=None) as engine:
        results = engine.map([kwargs | equal for kwargs in requests("flux")[:2]])
    assert counts["made"] == 3
    for result, own in zip(results, expected, strict=True):
        assert float(np.abs(arrays(result)[0] - arrays(own)[0]).max()) < 1e-5


def test_sizes_too_far_apart_do_not_share() -> None:
    pipeline = FAMILIES["flux"].build()
    made = [{**kwargs, "height": h, "width": h} for kwargs, h in zip(requests("flux")[:2], [128, 64], strict=True)]
    with Engine(pipeline, resolution_tolerance=0.1, max_batch_rows=None) as engine:
        results = engine.map(made)
        assert engine.stats()["mean_rows"]["transformer"] == 1
    assert not any(isinstance(result, BaseException) for result in results)


def test_pipelines_outside_the_engine_are_as_ever() -> None:
    pipeline = FAMILIES["flux"].build()
    kwargs = requests("flux")[0]
    before = arrays(stock(pipeline, requests("flux")[0]))
    run(pipeline, "flux", resolution_tolerance=0.15)
    assert np.array_equal(arrays(stock(pipeline, kwargs))[0], before[0])
    assert "forward" not in vars(pipeline.transformer.pos_embed)


def test_every_listed_class_is_tested() -> None:
    tested = {type(FAMILIES[name].build().transformer).__name__ for name in PACKED}
    assert tested == set(PACKINGS)
