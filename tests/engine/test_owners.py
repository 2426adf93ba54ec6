"""What an owner does to a pipeline while its engine is open holds for what starts after it, and for nothing else."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from peft import LoraConfig

from interlace import Engine
from interlace.engine.pipeline.intercept import CallGate
from tests.test_families import difference
from tests.zoo import FAMILIES
from tests.zoo.ip import load_ip_adapter, seen

EXACT = 1e-4
WORDS = ("sky", "sea", "sun", "moon", "blue", "red")  # that the tokenizers tell apart
Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {name: FAMILIES[name].build() for name in ("sd15-ddim", "flux")}


def pair(built: dict[str, Any], family: str = "sd15-ddim") -> tuple[Any, Any]:
    """A pipeline and its twin with equal weights."""
    return copy.deepcopy(built[family]), copy.deepcopy(built[family])


def request(i: int, steps: int = 3, **more: Any) -> dict[str, Any]:
    size = {"height": 16, "width": 16, "num_inference_steps": steps, "output_type": "np"}
    return {"prompt": f"a {WORDS[i]} <it>", "generator": torch.Generator().manual_seed(i), **size, **more}


class Hold:
    """Holds a request at its second step."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, step: int, num_steps: int, latents: Any) -> None:
        if step == 2:
            self.reached.set()
            assert self.go.wait(60)


def other(pipe: Any, component: str) -> None:
    new = copy.deepcopy(getattr(pipe, component))
    new.load_state_dict({name: 1.05 * value for name, value in new.state_dict().items()})
    setattr(pipe, component, new)


def learn(pipe: Any) -> None:
    vectors = torch.randn(2, pipe.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({"<it>": vectors}, token="<it>")


def tiles(pipe: Any) -> None:
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4
    pipe.vae.enable_tiling()


def hooked(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[0] * 1.02, *args[1:]


_CHANGES: dict[str, Change] = {
    "FreeU": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "fused projections": lambda pipe: pipe.fuse_qkv_projections(),
    "tiles": tiles,
    "another denoiser": lambda pipe: other(pipe, "unet"),
    "another text encoder": lambda pipe: other(pipe, "text_encoder"),
    "another VAE": lambda pipe: other(pipe, "vae"),
    "textual inversion": learn,
    "another scheduler": lambda pipe: setattr(
        pipe, "scheduler", EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    ),
    "another setting of the scheduler": lambda pipe: pipe.scheduler.register_to_config(prediction_type="v_prediction"),
    "a hook": lambda pipe: pipe.unet.register_forward_pre_hook(hooked),
    "offloading": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "double precision": lambda pipe: pipe.to(torch.float64),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_a_change_while_a_request_runs_holds_for_those_after_it(built: dict[str, Any], name: str) -> None:
    pipeline, twin = pair(built)
    change, hold, failed = _CHANGES[name], Hold(), []
    near = EXACT if name != "double precision" else 2e-3
    expected = twin(**request(0))

    def act() -> None:
        try:
            change(pipeline)
        except BaseException as error:
            failed.append(error)

    with Engine(pipeline, prompt_cache_bytes=1 << 22, max_batch_rows=None) as engine:
        running = engine.submit(request(0), on_step=hold)
        assert hold.reached.wait(60)
        acting = threading.Thread(target=act)
        acting.start()
        acting.join(0.05)
        hold.go.set()
        acting.join(60)
        assert not failed
        change(twin)
        assert difference(running.result(60), expected) < near, "it keeps what it began with"
        wanted = [twin(**request(i)) for i in range(2)]
        engine.map([request(i) for i in range(2)])  # kinds that are new
        before = engine.stats()["forwards"]["unet"]
        for result, one in zip(engine.map([request(i) for i in range(2)]), wanted, strict=True):
            assert difference(result, one) < near
        shared = engine.stats()["forwards"]["unet"] - before < 2 * 3
        assert shared or engine.stats()["unfused"] or engine.exclusive, "sharing is not lost without a word"
    assert difference(pipeline(**request(1)), wanted[1]) == 0
    for part in pipeline.components.values():
        assert not any(isinstance(value, CallGate) for value in getattr(part, "__dict__", {}).values())


def test_an_ip_adapter_loaded_while_open_and_its_scale_changed_by_a_callback(built: dict[str, Any]) -> None:
    pipeline, twin = pair(built, "flux")

    def weaker(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe.set_ip_adapter_scale(0.1)
        return {}

    def asked(i: int, **more: Any) -> dict[str, Any]:
        return request(i, 3, max_sequence_length=32, **seen(i), **more)

    load_ip_adapter(twin)
    wanted = [twin(**asked(i)) for i in range(2)]
    with_callback = twin(**asked(2, callback_on_step_end=weaker))
    twin.set_ip_adapter_scale(0.5)
    at_half = [twin(**asked(i)) for i in range(2)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        engine.map([request(0, max_sequence_length=32)])
        load_ip_adapter(pipeline)
        for _ in range(2):
            results = engine.map([asked(0), asked(2, callback_on_step_end=weaker), asked(1)])
            for result, one in zip(results, [wanted[0], with_callback, wanted[1]], strict=True):
                assert difference(result, one) < EXACT
        pipeline.set_ip_adapter_scale(0.5)
        engine.map([asked(0), asked(1)])
        before = engine.stats()["forwards"]["transformer"]
        for result, one in zip(engine.map([asked(0), asked(1)]), at_half, strict=True):
            assert difference(result, one) < EXACT
        assert engine.stats()["forwards"]["transformer"] - before == 3, "two requests of three steps share"


def test_a_scheduler_put_in_after_submission_is_not_that_requests(built: dict[str, Any]) -> None:
    pipeline, twin = pair(built)
    wanted = [twin(**request(1))]
    _CHANGES["another scheduler"](twin)
    wanted.append(twin(**request(1)))
    with Engine(pipeline, max_num_seqs=1) as engine:
        hold = Hold()
        engine.submit(request(0), on_step=hold)
        assert hold.reached.wait(60)
        early = engine.submit(request(1))
        changing = threading.Thread(target=_CHANGES["another scheduler"], args=(pipeline,))
        changing.start()
        changing.join(0.05)  # it waits for the step to end
        hold.go.set()
        changing.join(60)
        late = engine.submit(request(1))
        assert difference(early.result(60), wanted[0]) < EXACT
        assert difference(late.result(60), wanted[1]) < EXACT


def test_copies_made_while_open_are_stock(built: dict[str, Any]) -> None:
    pipeline, twin = pair(built)
    with Engine(pipeline) as engine:
        engine.map([request(0)])
        count = engine.stats()["forwards"]["unet"]
        module, whole = copy.deepcopy(pipeline.unet), copy.deepcopy(pipeline)
        for part in (module, whole.unet):
            assert not any(isinstance(value, CallGate) for value in vars(part).values())
        assert type(whole) is type(twin)
        assert difference(whole(**request(1)), twin(**request(1))) == 0
        assert engine.stats()["forwards"]["unet"] == count


class Layer(torch.nn.Module):
    """A small model whose forward torch.compile takes whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear(states).tanh()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_module_compiled_while_open_is_shared_counted_and_left_compiled(wrapped: bool) -> None:
    model = torch.manual_seed(0) and Layer()
    held = {"model": model}

    def run(seed: int) -> torch.Tensor:
        states = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
        for _ in range(3):
            states = held["model"](states)
        return states

    expected = [run(i) for i in range(3)]
    with Engine.over(run, held, max_batch_rows=None, verify_fusion="off") as engine:
        engine.map([{"seed": 0}])
        if wrapped:
            held["model"] = engine.pipeline.modules["model"] = torch.compile(model, backend="eager", fullgraph=True)
        else:
            model.compile(backend="eager", fullgraph=True)
        before = engine.stats()["forwards"]["model"]
        for result, one in zip(engine.map([{"seed": i} for i in range(3)]), expected, strict=True):
            assert torch.allclose(result, one, atol=1e-6)
        assert engine.stats()["forwards"]["model"] - before == 3, "three runs of three calls"
    assert torch.allclose(run(1), expected[1])
    assert not any(isinstance(value, CallGate) for part in (model, held["model"]) for value in vars(part).values())


def weights_in_place(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    if step == 0:
        pipe.unet.conv_out.bias.data.add_(0.1)
        with torch.no_grad():
            pipe.unet.conv_out.weight[0].mul_(1.5)
            torch.nn.init.ones_(pipe.unet.conv_in.bias)
    return {}


def test_weights_that_a_callback_changes_in_place_are_that_requests(built: dict[str, Any]) -> None:
    pipeline, twin = pair(built)
    others = [twin(**request(i)) for i in range(2)]
    expected = twin(**request(2, callback_on_step_end=weights_in_place))
    with Engine(pipeline) as engine:
        for _ in range(2):
            results = engine.map([request(0), request(2, callback_on_step_end=weights_in_place), request(1)])
            for result, one in zip(results, [others[0], expected, others[1]], strict=True):
                assert difference(result, one) < EXACT
    assert difference(pipeline(**request(0)), others[0]) == 0


def test_a_callback_that_interrupts_the_pipeline_it_knows_interrupts_its_request(built: dict[str, Any]) -> None:
    pipeline, twin = pair(built)

    def stopping(pipe: Any) -> Callable[..., dict[str, Any]]:
        def stop(view: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            pipe._interrupt = True
            return {}

        return stop

    expected = [twin(**request(0, callback_on_step_end=stopping(twin)))]
    twin._interrupt = False
    expected.append(twin(**request(1)))
    with Engine(pipeline) as engine:
        results = engine.map([request(0, callback_on_step_end=stopping(pipeline)), request(1)])
        for result, one in zip(results, expected, strict=True):
            assert difference(result, one) < EXACT
    assert not getattr(pipeline, "_interrupt", False)


def scaled(scale: float) -> dict[str, Any]:
    return request(5, 2, cross_attention_kwargs={"scale": scale})


def test_stock_calls_with_a_scale_in_another_thread_and_the_engine_do_not_disturb_each_other(
    built: dict[str, Any],
) -> None:
    pipeline, twin = pair(built)
    for pipe in (pipeline, twin):
        torch.manual_seed(0)
        pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False))
    expected, stock = [twin(**request(i, 4)) for i in range(3)], twin(**scaled(0.2))
    made, enough = [], threading.Event()

    def draw() -> None:
        while not made or not enough.is_set():
            made.append(pipeline(**scaled(0.2)))

    with Engine(pipeline) as engine:
        drawing = threading.Thread(target=draw)
        drawing.start()
        try:
            for _ in range(4):
                for result, one in zip(engine.map([request(i, 4) for i in range(3)]), expected, strict=True):
                    assert difference(result, one) < EXACT
        finally:
            enough.set()
            drawing.join(60)
        assert made
        assert all(difference(one, stock) < EXACT for one in made)


def test_engines_whose_pipelines_a_third_one_joins_take_turns_and_leave_no_trace(built: dict[str, Any]) -> None:
    one, two = pair(built)
    kind = type(one)
    three = kind(**{**one.components, "text_encoder": two.text_encoder}, requires_safety_checker=False)
    expected = one(**request(0))
    engines = [Engine(pipe) for pipe in (one, two, three)]
    for future in [engine.submit(request(0)) for engine in engines]:
        assert difference(future.result(60), expected) < EXACT
    engines[0].close()
    changing = threading.Thread(target=lambda: two.text_encoder.register_buffer("more", torch.zeros(1)))
    changing.start()
    changing.join(60)
    assert not changing.is_alive()
    for engine in engines[1:]:
        engine.close()
    assert [type(pipe) for pipe in (one, two, three)] == [kind] * 3
