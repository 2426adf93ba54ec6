"""A closed engine leaves no trace: not in the pipeline, not in diffusers' classes, not in torch."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from peft.tuners.tuners_utils import BaseTunerLayer

from interlace import Engine
from interlace.python.wraps import Wraps
from tests.zoo import FAMILIES

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")


def traces(pipeline: Any) -> dict[str, dict[str, object]]:
    """What the pipeline's modules, their classes, diffusers' attention and torch have under each name."""
    found: dict[str, dict[str, object]] = {
        "backends": {str(name): backend for name, backend in _AttentionBackendRegistry._backends.items()},
        "torch": {name: vars(torch)[name] for name in ("randn", "manual_seed", "get_rng_state")},
        "Module": dict(vars(torch.nn.Module)),
        "pipeline": {name: value for name, value in vars(pipeline).items() if not name.startswith("_")},
    }
    for name, component in pipeline.components.items():
        for path, part in component.named_modules() if isinstance(component, torch.nn.Module) else ():
            found[f"{name}.{path}"] = {key: value for key, value in vars(part).items() if key[:1] != "_"}
            found[f"{name}.{path} hooks"] = {kind: list(getattr(part, kind).values()) for kind in HOOKS}
            found[type(part).__qualname__] = dict(vars(type(part)))
    return found


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("flux", {"resolution_tolerance": 0.2, "max_batch_rows": None}),
        ("flux", {"cache_type": "first_block_cache", "cache_threshold": 0.3}),
        ("sd3.5", {"resolution_tolerance": 0.2, "max_batch_rows": None}),
        ("wan", {"resolution_tolerance": 0.2, "max_batch_rows": None}),
    ],
)
def test_everything_is_as_it_was(family: str, options: dict[str, Any]) -> None:
    pipeline = FAMILIES[family].build()
    pipeline.set_progress_bar_config(disable=True)
    blocks = "blocks" if family == "wan" else "transformer_blocks"
    block = getattr(pipeline.transformer, blocks)[0]
    own = block.forward
    block.forward = lambda *args, **kwargs: own(*args, **kwargs)  # somebody's hook
    kwargs = FAMILIES[family].requests()[0] | {"num_inference_steps": 2}
    pipeline(**kwargs)
    before = traces(pipeline)
    with Engine(pipeline, **options) as engine:
        engine.map([{**kwargs, "height": 64, "width": 64}, {**kwargs, "height": 64, "width": 56}] * 2)
        during = traces(pipeline)
    after = traces(pipeline)
    assert during != before, "nothing was wrapped: the test sees nothing"
    assert {name: {key for key in before[name].keys() | one if before[name].get(key) is not one.get(key)}
            for name, one in after.items() if before[name] != one} == {}  # fmt: skip


def test_another_engine_keeps_what_it_needs() -> None:
    pipeline, other = FAMILIES["flux"].build(), FAMILIES["flux"].build()
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 1}
    kind = type(pipeline.transformer.pos_embed)
    plain = kind.forward
    first, second = Engine(pipeline), Engine(other)
    first.map([kwargs])
    assert kind.forward is not plain
    second.close()
    assert kind.forward is not plain, "the first one is still open"
    first.close()
    assert kind.forward is plain


def test_what_somebody_else_has_replaced_meanwhile_is_left() -> None:
    class Owner:
        name = "old"

    items = {"a": 1, "b": 2}
    wraps = Wraps()
    wraps.open()
    wraps.replace(Owner, "name", "new")
    wraps.replace(Owner, "other", "new")
    for key in items:
        wraps.replace_item(items, key, 0)
    Owner.other, items["b"] = "theirs", 3
    wraps.close()
    assert (Owner.name, Owner.other, items) == ("old", "theirs", {"a": 1, "b": 3})


def test_wraps_that_come_late_are_there_at_once_where_somebody_needs_them() -> None:
    class Owner:
        name = "old"

    wraps = Wraps()
    wraps.add(lambda: wraps.replace(Owner, "name", "new"))
    assert Owner.name == "old"
    wraps.open()
    assert Owner.name == "new"
    wraps.add(lambda: wraps.replace(Owner, "other", "new"))
    assert Owner.other == "new"  # type: ignore[attr-defined]
    wraps.close()
    assert (Owner.name, hasattr(Owner, "other")) == ("old", False)


def test_the_rows_of_each_length_are_sent_to_the_device_once_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    from interlace.engine.calls.packing import ragged

    made: list[Any] = []
    tensor = torch.tensor

    def counted(data: Any, **options: Any) -> torch.Tensor:
        made.append(data)
        return tensor(data, **options)

    pipeline = FAMILIES["flux"].build()
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 3}
    sizes = [{**kwargs, "height": 64, "width": width} for width in (64, 56)]
    num_layers = len(pipeline.transformer.transformer_blocks) + len(pipeline.transformer.single_transformer_blocks)
    with Engine(pipeline, resolution_tolerance=0.2, max_batch_rows=None, verify_fusion="off") as engine:
        monkeypatch.setattr(ragged.torch, "tensor", counted)
        engine.map(sizes)
        monkeypatch.undo()
        forwards = engine.statistics().widths["transformer"].get(2, 0)
    assert forwards >= 2
    assert num_layers >= 2
    rows = [data for data in made if data in ([0], [1])]
    assert len(rows) == 2 * forwards, "one for each length and forward, however many layers"


def test_layers_keep_the_forward_that_they_had_under_mixed_adapters() -> None:
    from interlace.engine.adapters.layers import AdapterLayers, adapters_of
    from interlace.engine.adapters.mixing import Mixer
    from tests.test_adapters import adapted

    denoiser = adapted("flux")[1]
    layers = [part for part in denoiser.modules() if isinstance(part, BaseTunerLayer) and "line" in adapters_of(part)]
    hooked = layers[0].forward
    layers[0].forward = hooked  # on the instance, as offloading does
    with Mixer(AdapterLayers(denoiser)).mixed([(("line", 1.0),), ()], [1, 1]):
        assert vars(layers[0])["forward"] is not hooked
    assert vars(layers[0])["forward"] is hooked
    assert all("forward" not in vars(layer) for layer in layers[1:])
