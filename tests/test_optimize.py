"""Speed and memory flags: each changes what it says, keeps the picture, or is refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import torch

from interlace import Engine, Omni, SamplingParams
from interlace.cli.flags.shared import SpeedFlags
from interlace.cli.main import run
from interlace.errors import InvalidRequestError
from interlace.models.optimize import OPTIMIZATIONS, Optimizations
from tests.test_families import TOLERANCE, difference, stock
from tests.zoo import FAMILIES

SMALL = SamplingParams(height=64, width=64, num_inference_steps=2, seed=1)


def pixels(optimizations: Optimizations | None = None) -> np.ndarray:
    with Omni("demo", optimizations=optimizations) as omni:
        outputs = omni.generate(["a red circle", "a blue star"], SMALL, raise_on_error=True)
        return np.stack([np.asarray(output.images[0], dtype=np.int16) for output in outputs])


@pytest.mark.parametrize("names", [("vae_slicing",), ("channels_last",), ("fuse_qkv",), ("tf32", "vae_slicing")])
def test_the_picture_stays(names: tuple[str, ...]) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        assert np.abs(pixels(Optimizations(names=names)) - pixels()).max() <= 1
    finally:
        torch.set_float32_matmul_precision(before)


def test_native_attention_can_be_named() -> None:
    assert np.abs(pixels(Optimizations(attention_backend="native")) - pixels()).max() <= 1


def test_slicing_and_tiling_are_really_on() -> None:
    with Omni("demo", optimizations=Optimizations(names=("vae_slicing", "vae_tiling"))) as omni:
        assert omni.model.pipeline.vae.use_slicing
        assert omni.model.pipeline.vae.use_tiling


@pytest.mark.parametrize("name", ["flux", "sd3.5", "sdxl"])
def test_of_a_denoiser_only_the_blocks_are_compiled(name: str) -> None:
    pipeline = FAMILIES[name].build()
    denoiser = getattr(pipeline, FAMILIES[name].denoisers[0])
    Optimizations(names=("compile",)).apply(pipeline)
    compiled = {type(part).__name__ for part in denoiser.modules() if part._compiled_call_impl is not None}
    assert compiled
    assert all("Block" in kind for kind in compiled)
    assert denoiser._compiled_call_impl is None


def test_compiled_blocks_serve_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FAMILIES["flux"].build()
    compile_it = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: compile_it(block, backend="eager", **how))
    Optimizations(names=("compile",)).apply(pipeline)
    for heights in ([64, 56], [56, 64]):  # the same shape once shared, other rows' lengths
        requests = [{**FAMILIES["flux"].requests()[0], "height": height, "width": 64} for height in heights]
        for number, kwargs in enumerate(requests):
            kwargs |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(number)}
        with Engine(pipeline, resolution_tolerance=0.2, verify_fusion="off", max_batch_rows=None) as engine:
            outputs = engine.map([dict(kwargs) for kwargs in requests])
            assert engine.stats()["mean_rows"]["transformer"] == 2
        for number, (kwargs, output) in enumerate(zip(requests, outputs, strict=True)):
            kwargs["generator"] = torch.Generator().manual_seed(number)
            with torch.compiler.set_stance("force_eager"):
                expected = stock(pipeline, kwargs)
            assert np.abs(output.images - expected.images).max() < 1e-4


def test_weights_in_8_bits_are_cast_layer_by_layer_and_forwards_still_shared() -> None:
    pipeline = FAMILIES["flux"].build()
    SpeedFlags(offload="layerwise").optimizations().apply(pipeline)
    dtypes = {parameter.dtype for parameter in pipeline.transformer.parameters()}
    assert torch.float8_e4m3fn in dtypes
    alone = [stock(pipeline, kwargs) for kwargs in FAMILIES["flux"].requests()[:3]]
    with Engine(pipeline, max_batch_rows=None) as engine:
        together = engine.map(FAMILIES["flux"].requests()[:3])
        stats = engine.stats()
    assert max(map(difference, together, alone)) < TOLERANCE
    assert stats["mean_rows"]["transformer"] > 1.2, (stats["unfused"], stats["exclusive"])


def test_flags_become_optimizations() -> None:
    assert SpeedFlags().set() == {}
    assert SpeedFlags(enable_compile=True).optimizations() == Optimizations(names=("compile", "auto"))
    assert SpeedFlags(optimize="off").optimizations() == Optimizations()
    flags = SpeedFlags(enable_vae_slicing=True, optimize="channels-last, vae_slicing")
    assert flags.optimizations() == Optimizations(names=("vae_slicing", "channels_last", "vae_slicing"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optimize", "channel_last"], "did you mean 'channels_last'"),
        (["--attention-backend", "nativ"], "did you mean 'native'"),
        (["--cache-type", "teacache"], "teacache"),
        (["--batch-size", "lots"], "expected a whole number or auto"),
    ],
)
def test_unknown_names_are_errors_that_list_the_known_ones(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["t2i", "--prompt", "a", "--output-dir", str(tmp_path / "out"), *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "optimizations",
    [
        SpeedFlags(offload="model").optimizations(),
        SpeedFlags(offload="group").optimizations(),
        Optimizations(attention_backend="flash"),
    ],
)
def test_what_can_not_be_done_here_is_refused_with_the_reason(optimizations: Optimizations) -> None:
    with pytest.raises(InvalidRequestError, match=r"there is no GPU here|can't be used here"):
        Omni("demo", optimizations=optimizations)


def test_every_name_is_in_the_help() -> None:
    assert SpeedFlags.__dataclass_fields__["optimize"].default == "auto"
    source = Path(__file__).parent.parent / "interlace" / "cli/flags/shared.py"
    assert all(name in source.read_text() for name in OPTIMIZATIONS)


def test_cuda_graphs_are_refused_without_a_gpu() -> None:
    with pytest.raises(InvalidRequestError, match="need an NVIDIA GPU"):
        Optimizations(names=("cuda_graphs",)).apply(FAMILIES["flux"].build())


def test_with_cuda_graphs_each_block_is_compiled_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    how: list[dict[str, object]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **given: how.append(given))
    Optimizations(names=("cuda_graphs",)).apply(FAMILIES["flux"].build())
    assert how == [{"mode": "reduce-overhead", "dynamic": False}] * 4, "two double and two single blocks"


def test_deterministic_is_really_on_and_the_picture_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    plain = pixels()
    try:
        strict = pixels(SpeedFlags(deterministic=True, optimize="off").optimizations())
        assert np.abs(strict - plain).max() <= 1
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
