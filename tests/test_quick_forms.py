"""Quick forms: the same numbers within rounding, whatever their owner does to the modules; off where they don't pay."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import tiny_flux
from torch import Tensor, nn

from interlace import Engine
from interlace.models.automatic import choice, forms, trial
from interlace.models.automatic.trial import Finding
from interlace.models.optimize import AUTO
from tests.test_families import TOLERANCE, difference, stock
from tests.zoo import FAMILIES

CLOSE = 1e-5


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERLACE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(forms, "_SMALL_PRODUCT", 0)  # tiny models have no others
    return tmp_path


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed in a quick form."""
    told: list[str] = []
    product, modulated = forms._product, forms._modulated
    monkeypatch.setattr(forms, "_product", lambda *args: (told.append(args[2]), product(*args))[1])
    monkeypatch.setattr(forms, "_modulated", lambda *args: (told.append("modulated"), modulated(*args))[1])
    return told


def quick(denoiser: nn.Module) -> nn.Module:
    """All its forms on, whatever they gain here."""
    for form in forms.FORMS:
        forms.put_on(form, forms.formed(denoiser, form))
    return denoiser


def arguments(denoiser: Any) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    config = denoiser.config
    ids = torch.zeros(6, 3)
    ids[:, 1] = torch.arange(6)
    return {
        "hidden_states": torch.randn(2, 6, config.in_channels, generator=numbers),
        "encoder_hidden_states": torch.randn(2, 5, config.joint_attention_dim, generator=numbers),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=numbers),
        "timestep": torch.tensor([0.3, 0.7]),
        "guidance": torch.tensor([3.5, 2.0]),
        "img_ids": ids,
        "txt_ids": torch.zeros(5, 3),
    }


def strided_biases(denoiser: Any) -> None:
    for part in denoiser.modules():
        if isinstance(part, nn.Linear):
            twice = torch.stack([part.bias.detach(), part.bias.detach() + 1], 1)
            part.bias = nn.Parameter(twice[:, 0])
    change_weights(denoiser)


def run(denoiser: Any) -> Tensor:
    dtype = next(denoiser.parameters()).dtype
    with torch.no_grad():
        output = denoiser(**{name: one.to(dtype) for name, one in arguments(denoiser).items()}, return_dict=False)[0]
    assert isinstance(output, Tensor)
    return output


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def add_lora(denoiser: Any) -> None:
    torch.manual_seed(1)
    targets = ["to_q", "proj_mlp", "proj_out", "ff.net.0.proj", "norm.linear"]
    denoiser.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "line")


def test_the_forward_is_the_same_within_rounding(fused: list[str]) -> None:
    denoiser = tiny_flux().transformer
    stock = run(denoiser)
    assert not fused
    assert apart(run(quick(denoiser)), stock) < CLOSE
    assert fused.count("gelu") == 3  # two feed-forwards of the double block, one single block
    assert fused.count("modulated") == 3
    linears = sum(type(part) is nn.Linear for part in denoiser.modules())
    assert fused.count("none") == linears - 3


def test_small_products_are_torchs_own(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_SMALL_PRODUCT", 6 * 64 * 32)
    linear = nn.Linear(32, 64)
    forms.put_on(forms.FORMS[0], [linear])
    with torch.no_grad():
        for rows, told in ((5, []), (6, ["none"])):
            x = torch.randn(rows, 32)
            assert apart(linear(x), nn.functional.linear(x, linear.weight, linear.bias)) < CLOSE
            assert fused == told
        alone = torch.randn(32)  # of one dimension
        monkeypatch.setattr(forms, "_SMALL_PRODUCT", 0)
        assert linear(alone).shape == (64,)
        assert fused == ["none"]


def views() -> dict[str, Tensor]:
    return {
        "plain": torch.randn(4, 9, 32),
        "turned": torch.randn(32, 4, 9).permute(1, 2, 0),
        "every other": torch.randn(4, 18, 64)[:, ::2, ::2],
        "one for all": torch.randn(1, 1, 32).expand(4, 9, 32),
        "half": torch.randn(4, 9, 64).chunk(2, -1)[1],
        "empty": torch.randn(0, 32),
        "four dimensions": torch.randn(2, 3, 5, 32),
    }


@pytest.mark.parametrize("name", views())
def test_numbers_may_lie_anyhow(name: str, fused: list[str]) -> None:
    x, linear = views()[name], nn.Linear(32, 64)
    linear.weight = nn.Parameter(torch.randn(32, 64).t())
    linear.bias = nn.Parameter(torch.randn(128)[::2])  # oneDNN would read the wrong ones
    bare = nn.Linear(32, 64, bias=False)
    forms.put_on(forms.FORMS[0], [linear, bare])
    with torch.no_grad():
        for one in (linear, bare):
            expected = nn.functional.linear(x, one.weight, one.bias)
            assert one(x).shape == expected.shape
            assert x.numel() == 0 or apart(one(x), expected) < CLOSE
    assert set(fused) == {"none"}


def test_a_form_is_tried_on_what_takes_the_time() -> None:
    parts = [nn.Linear(64, 64), nn.Linear(8, 8), nn.Linear(8, 64), nn.Linear(48, 48), nn.Linear(48, 48)]
    assert forms.typical(parts) is parts[3]


def change_weights(denoiser: Any) -> None:
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(1.1)


def new_weights(denoiser: Any) -> None:
    for block in denoiser.single_transformer_blocks:
        block.proj_mlp.weight = nn.Parameter(block.proj_mlp.weight.detach() * 2)


def other_activation(denoiser: Any) -> None:
    for block in denoiser.single_transformer_blocks:
        block.act_mlp = nn.ReLU()


def hook(denoiser: Any) -> None:
    for part in denoiser.modules():
        if isinstance(part, nn.Linear | nn.GELU):
            part.register_forward_hook(lambda module, args, output: output * 1.5)


class Negative(nn.Linear):
    """What some quantisers and patches make of a layer: another class, in its place."""

    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input)


class Softer(forms.GELU):
    def gelu(self, gate: Tensor) -> Tensor:
        return torch.nn.functional.silu(gate)


def other_class(denoiser: Any) -> None:
    for part in denoiser.modules():
        part.__class__ = {nn.Linear: Negative, forms.GELU: Softer}.get(type(part), type(part))


def remove_lora(denoiser: Any) -> None:
    add_lora(denoiser)
    denoiser.delete_adapters("line")


@pytest.mark.parametrize(
    "change",
    [change_weights, new_weights, strided_biases, other_activation, other_class, hook, add_lora, remove_lora,
     lambda d: d.double()],
)  # fmt: skip
def test_what_its_owner_changes_later_holds(change: Any) -> None:
    plain, denoiser = tiny_flux().transformer, quick(tiny_flux().transformer)
    before = run(plain)
    run(denoiser)
    change(plain)
    change(denoiser)
    assert apart(run(denoiser), run(plain)) < CLOSE
    assert change is remove_lora or apart(run(plain).float(), before) > CLOSE or change.__name__ == "<lambda>"


def test_a_class_that_is_patched_is_run_as_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, denoiser = tiny_flux().transformer, quick(tiny_flux().transformer)
    before = run(plain)
    own = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, input: own(self, input) * 1.5)
    assert apart(run(denoiser), run(plain)) < CLOSE
    assert apart(run(plain), before) > CLOSE


def test_adapters_that_are_there_before_stay_in_force() -> None:
    plain, denoiser = tiny_flux().transformer, tiny_flux().transformer
    add_lora(plain)
    add_lora(denoiser)
    assert apart(run(quick(denoiser)), run(plain)) < CLOSE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_the_class_own(dtype: torch.dtype, fused: list[str]) -> None:
    denoiser = tiny_flux().transformer.to(dtype)
    stock = run(denoiser)
    assert torch.equal(run(quick(denoiser)), stock)
    assert not fused


def test_gradients_and_autocast_are_as_ever(fused: list[str]) -> None:
    denoiser = quick(tiny_flux().transformer)
    denoiser(**arguments(denoiser), return_dict=False)[0].sum().backward()
    assert denoiser.single_transformer_blocks[0].proj_mlp.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        run(denoiser)
    assert not fused


def test_taken_off_the_modules_are_as_they_were() -> None:
    denoiser = tiny_flux().transformer
    before = {name: dict(vars(part)) for name, part in denoiser.named_modules()}
    forms.take_off(quick(denoiser))
    assert {name: dict(vars(part)) for name, part in denoiser.named_modules()} == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_have_forms_of_their_own(copied: Any) -> None:
    denoiser = quick(tiny_flux().transformer)
    other = copied(denoiser)
    before = run(other)
    change_weights(denoiser)
    assert torch.equal(run(other), before)


def test_somebody_elses_forward_is_left() -> None:
    denoiser = tiny_flux().transformer
    block = denoiser.single_transformer_blocks[0]
    block.forward = own = lambda *args, **kwargs: type(block).forward(block, *args, **kwargs)
    quick(denoiser)
    assert block.forward is own


def test_auto_takes_what_pays_and_remembers_it(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(choice, "try_channels_last", lambda vae: Finding(False, "not asked"))
    found = {"GELU": Finding(True, "2.00 times as quick"), "AdaLayerNormZero": Finding(True, "1.10 times as quick")}
    asked: list[str] = []

    def look(form: forms.Form, part: nn.Module) -> Finding:
        asked.append(form.of.__name__)
        return found.get(form.of.__name__, Finding(False, "1.00 times as quick"))

    monkeypatch.setattr(choice, "try_form", look)
    for _ in range(2):
        pipeline = tiny_flux()
        told = (
            "transformer quick GELU (2.00 times as quick)",
            "transformer quick AdaLayerNormZero (1.10 times as quick)",
        )
        assert AUTO.apply(pipeline) == told
    assert asked == [
        "Linear",
        "Linear",
        "Linear",
        "GELU",
        "AdaLayerNormZero",
        "AdaLayerNormZeroSingle",
        "FluxSingleTransformerBlock",
    ]
    changed = {type(part).__name__ for part in pipeline.transformer.modules() if "forward" in vars(part)}
    assert changed == set(found)


def test_a_form_with_other_numbers_is_refused() -> None:
    gelu = next(part for part in tiny_flux().transformer.modules() if type(part) is forms.GELU)
    form = forms.FORMS[1]
    wrong = forms.Form(form.of, lambda self, hidden_states: form.forward(self, hidden_states) * 1.01, form.example)
    assert forms.try_form(wrong, gelu) == Finding(False, "gave other numbers")
    assert "times as quick" in forms.try_form(form, gelu).why
    assert forms.try_form(form, gelu.bfloat16()) == Finding(False, "not tried: for float32 on a CPU only")


def test_the_quicker_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"plain": 0.02, "quick": 0.01}
    last: list[str] = []
    monkeypatch.setattr(trial, "seconds", lambda run: (run(), taken[last[-1]])[1])
    ways = {name: lambda name=name: last.append(name) or torch.ones(1) for name in taken}
    assert trial.compared(ways["plain"], ways["quick"]) == Finding(True, "2.00 times as quick")
    assert trial.compared(ways["quick"], ways["plain"]) == Finding(False, "0.50 times as quick")
    taken["plain"] = 3.0
    assert trial.compared(ways["plain"], ways["quick"]) == Finding(False, "not tried: it takes 3.0 s")


def test_requests_are_as_stock_with_adapters_loaded_while_they_are_served() -> None:
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 2, "output_type": "np"}

    def drawn(call: Any) -> Any:
        return call(**kwargs | {"generator": torch.Generator().manual_seed(3)}).images

    plain, pipeline = FAMILIES["flux"].build(), FAMILIES["flux"].build()
    for one in (plain, pipeline):
        one.set_progress_bar_config(disable=True)
    quick(pipeline.transformer)
    on = {name for name, part in pipeline.transformer.named_modules() if "forward" in vars(part)}
    with Engine(pipeline) as engine:
        call = lambda **kwargs: engine.map([kwargs])[0]  # noqa: E731
        first = drawn(plain)
        assert abs(drawn(call) - first).max() < CLOSE
        add_lora(plain.transformer)
        add_lora(pipeline.transformer)
        assert abs(drawn(call) - drawn(plain)).max() < CLOSE
        assert abs(drawn(plain) - first).max() > CLOSE
        assert not engine.stats()["exclusive"]
    left = {name for name, part in pipeline.transformer.named_modules() if "forward" in vars(part)}
    assert on == {name.removesuffix(".base_layer") for name in left if "lora" not in name}


@pytest.mark.parametrize("name", ["flux2", "kandinsky-2.2", "ltx", "pixart-sigma", "qwen-image", "sana", "sd3.5",
                                  "sdxl", "stable-audio", "wan", "z-image"])  # fmt: skip
def test_pipelines_of_every_kind_share_forwards_in_quick_forms(name: str, fused: list[str]) -> None:
    family = FAMILIES[name]
    pipeline = family.build()
    alone = [stock(pipeline, kwargs) for kwargs in family.requests()]
    for part in vars(pipeline).values():
        if isinstance(part, nn.Module):
            quick(part)
    with Engine(pipeline, max_batch_rows=None) as engine:
        shared = engine.map(family.requests())
        assert not {one.partition(" ")[0] for one in engine.stats()["unfused"]} & set(family.denoisers)
    assert fused
    assert max(difference(one, other) for one, other in zip(shared, alone, strict=True)) < TOLERANCE
