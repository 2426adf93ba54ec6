"""`Engine.over`: any callable whose work is calls of modules, with models that are not from diffusers."""

import re
import runpy
import threading
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, VitsConfig, VitsModel

from interlace import Engine
from interlace.engine.pipeline.channel import Channel, ChannelClosedError
from interlace.errors import AbortedError, DeadlineExceededError, InvalidRequestError

LENGTHS = (5, 9, 6, 14)


def language_model(attention: str = "sdpa", **options: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=None,
                         bos_token_id=None, pad_token_id=0, attn_implementation=attention, **options)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.mul_(6)  # far from ties between tokens
    return model


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 64, (1, length), generator=generator) for length in lengths]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stock_generate_of_texts_of_different_lengths_shares_every_token(attention: str) -> None:
    model = language_model(attention)

    def write(ids: torch.Tensor, tokens: int) -> torch.Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)

    requests = [{"ids": ids, "tokens": 12 + 3 * i} for i, ids in enumerate(prompts())]
    alone = [write(**request) for request in requests]
    with Engine.over(write, {"model": model.model, "lm_head": model.lm_head}, max_batch_rows=8) as engine:
        together = engine.map(requests)
        stats = engine.stats()
    for one, other in zip(alone, together, strict=True):
        assert one.tolist() == other.tolist()
    assert not stats["unfused"]
    assert stats["forwards"]["model"] < sum(request["tokens"] for request in requests)
    assert stats["widths"]["model"][4] >= 8


def test_sampled_texts_draw_from_their_own_random_numbers() -> None:
    model = language_model()

    def write(ids: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=True, top_k=20)

    requests = [{"ids": ids, "seed": seed} for seed, ids in enumerate(prompts())]
    alone = [write(**request).tolist() for request in requests]
    with Engine.over(write, {"model": model.model, "lm_head": model.lm_head}, max_batch_rows=8) as engine:
        assert [text.tolist() for text in engine.map(requests)] == alone


def test_a_failed_forward_leaves_caches_as_they_were() -> None:
    """A row that breaks shared forwards: the others' texts are those of running alone."""
    model = language_model()
    inner = model.model.layers[1].forward

    def breaking(hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if len(hidden) > 2:
            raise RuntimeError("too many rows for this layer")
        return inner(hidden, *args, **kwargs)

    def write(ids: torch.Tensor) -> torch.Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)

    alone = [write(ids).tolist() for ids in prompts()]
    model.model.layers[1].forward = breaking
    with Engine.over(write, {"model": model.model}, verify_fusion="off", max_batch_rows=8) as engine:
        together = engine.map([{"ids": ids} for ids in prompts()])
        assert engine.stats()["halved"]
    assert [text.tolist() for text in together] == alone


def test_windows_of_attention_that_fill_up_run_alone_and_right() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, sliding_window=16, eos_token_id=None,
                           pad_token_id=0)  # fmt: skip
    model = MistralForCausalLM(config).eval()

    def write(ids: torch.Tensor) -> torch.Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)

    alone = [write(ids).tolist() for ids in prompts()]
    with Engine.over(write, {"model": model.model}, max_batch_rows=8) as engine:
        assert [text.tolist() for text in engine.map([{"ids": ids} for ids in prompts()])] == alone
        assert engine.stats()["widths"]["model"].get(2, 0) + engine.stats()["widths"]["model"].get(3, 0)
        assert "window" in next(iter(engine.stats()["unfused"].values()))


def _vits() -> VitsModel:
    torch.manual_seed(0)
    config = VitsConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
                        flow_size=16, spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[4, 4],
                        upsample_kernel_sizes=[8, 8], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
                        use_stochastic_duration_prediction=False, prior_encoder_num_flows=2,
                        prior_encoder_num_wavenet_layers=2, duration_predictor_filter_channels=16)  # fmt: skip
    return VitsModel(config).eval()


def test_the_speech_model_of_docs_omni_speaks(tmp_path: Path) -> None:
    _vits().save_pretrained(tmp_path / "vits")
    page = (Path(__file__).parents[2] / "docs/omni.md").read_text()
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "VitsModel" in text]
    (tmp_path / "block.py").write_text(code.replace("facebook/mms-tts-eng", str(tmp_path / "vits")))
    texts = [torch.randint(1, 40, (1, length)) for length in (9, 12)]
    told = runpy.run_path(str(tmp_path / "block.py"), {"texts": texts})
    assert all(waveform.isfinite().all() for waveform in told["waveforms"])


def test_a_speech_model_of_transformers_shares_its_flow_and_decoder() -> None:
    """VITS: a flow and a vocoder, driven by its own stock code."""
    model = _vits()

    def speak(ids: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(input_ids=ids).waveform

    generator = torch.Generator().manual_seed(2)
    requests = [{"ids": torch.randint(1, 40, (1, 12), generator=generator), "seed": seed} for seed in range(4)]
    with torch.no_grad():
        alone = [speak(**request) for request in requests]
    modules = {"text_encoder": model.text_encoder, "duration": model.duration_predictor, "decoder": model.decoder}
    with Engine.over(speak, modules, max_batch_rows=8) as engine:
        together = [*engine.map(requests), *engine.map(requests)]  # the first round is verified
        stats = engine.stats()
    for one, other in zip([*alone, *alone], together, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4
    assert not stats["unfused"]
    assert stats["widths"]["text_encoder"][4] == stats["widths"]["duration"][4] == 2


def test_what_is_no_callable_or_no_module_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(InvalidRequestError, match="expected a callable"):
        Engine.over(3, {"layer": layer})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="by name"):
        Engine.over(layer, {})
    with pytest.raises(InvalidRequestError, match=r"expected a torch.nn.Module"):
        Engine.over(layer, {"layer": 3})  # type: ignore[dict-item]


def test_requests_that_wait_for_each_other_hold_nobody_up() -> None:
    """One strand takes what another makes, in another engine; a third goes on meanwhile."""
    layer = torch.nn.Linear(4, 4)
    channel: Channel[torch.Tensor] = Channel()

    def make(count: int) -> int:
        for _ in range(count):
            channel.put(layer(torch.ones(1, 4)))
        channel.close()
        return count

    def take() -> torch.Tensor:
        total = torch.zeros(1, 4)
        while True:
            try:
                total = total + layer(channel.take())
            except ChannelClosedError:
                return total

    def plain() -> torch.Tensor:
        return layer(torch.ones(1, 4))

    with torch.no_grad():
        each = layer(layer(torch.ones(1, 4)))
    with Engine.over(lambda work: work(), {"layer": layer}) as takers, Engine.over(make, {"layer": layer}) as makers:
        waiting = takers.submit({"work": take})
        takers.submit({"work": plain}).result(timeout=60)
        assert not waiting.done()
        assert makers.submit({"count": 3}).result(timeout=60) == 3
        assert torch.allclose(waiting.result(timeout=60), 3 * each, atol=1e-5)


def test_who_waits_can_be_aborted_and_has_its_deadline() -> None:
    layer = torch.nn.Linear(4, 4)
    never: Channel[int] = Channel()
    with Engine.over(lambda: never.take(), {"layer": layer}) as engine:
        one = engine.submit({}, request_id="a")
        two = engine.submit({}, request_id="b", timeout_s=0.2)
        with pytest.raises(DeadlineExceededError):
            two.result(timeout=60)
        assert engine.abort("a")
        with pytest.raises(AbortedError):
            one.result(timeout=60)


def test_a_channel_gives_its_error_after_its_items_and_serves_threads_too() -> None:
    channel: Channel[int] = Channel()
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend([channel.take(), channel.take()]))
    reader.start()
    for item in (1, 2, 3):
        channel.put(item)
    reader.join(timeout=60)
    channel.close(ValueError("why"))
    channel.close()
    assert got == [1, 2]
    assert channel.take() == 3
    with pytest.raises(ValueError, match="why"):
        channel.take()
