"""Arguments and outputs that carry rows in ways of their own: each shares, and gives what it gives alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionSAGPipeline, WanTransformer3DModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

from interlace import Engine
from tests.test_families import difference
from tests.zoo import FAMILIES
from tests.zoo.family import generator, picture, randomise_zero_parameters, seeded

Run = Callable[..., Any]


def kolors_text() -> tuple[Run, dict[str, torch.nn.Module]]:
    """As Kolors encodes: the last state but one of all tokens, and the last token's last state."""
    with seeded():
        model = ChatGLMModel(
            ChatGLMConfig(
                num_layers=2,
                padded_vocab_size=64,
                hidden_size=32,
                ffn_hidden_size=48,
                kv_channels=8,
                num_attention_heads=4,
                seq_length=16,
                multi_query_attention=True,
                multi_query_group_num=2,
                add_qkv_bias=True,
                original_rope=True,
            ),
            empty_init=False,
        ).eval()
        for weights in model.parameters():  # some are left as memory had them
            torch.nn.init.normal_(weights, std=0.3)

    def encode(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(1, 64, (1, 12), generator=generator(seed))
        mask, places = torch.ones_like(ids), torch.arange(12)[None]
        states = model(input_ids=ids, attention_mask=mask, position_ids=places, output_hidden_states=True).hidden_states
        return states[-2].permute(1, 0, 2).clone(), states[-1][-1].clone()

    return encode, {"text_encoder": model}


def first_and_last_frame() -> tuple[Run, dict[str, torch.nn.Module]]:
    """WAN's denoiser with two embeddings of pictures for each row."""
    with seeded():
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
            image_dim=8,
            added_kv_proj_dim=24,
            pos_embed_seq_len=2 * 3,
        ).eval()
        randomise_zero_parameters(model)

    def denoise(seed: int) -> torch.Tensor:
        numbers = generator(seed)
        latents = torch.randn(1, 4, 1, 4, 4, generator=numbers)
        text, pictures = torch.randn(1, 6, 16, generator=numbers), torch.randn(2, 3, 8, generator=numbers)
        for step in (900, 500):
            latents = model(
                hidden_states=latents,
                timestep=torch.tensor([step]),
                encoder_hidden_states=text,
                encoder_hidden_states_image=pictures,
                return_dict=False,
            )[0]
        return latents

    return denoise, {"transformer": model}


@pytest.mark.parametrize(("make", "calls"), [(kolors_text, 1), (first_and_last_frame, 2)])
def test_rows_in_places_of_their_own_share(make: Callable[[], tuple[Run, Any]], calls: int) -> None:
    run, modules = make()
    (name,) = modules
    with torch.no_grad():
        alone = [run(seed=seed) for seed in range(3)]
    with Engine.over(run, modules, max_batch_rows=None) as engine:
        for _ in range(2):
            before = engine.stats()["forwards"].get(name, 0)
            for one, result in zip(alone, engine.map([{"seed": seed} for seed in range(3)]), strict=True):
                assert difference(result, one) < 1e-5
        assert engine.stats()["forwards"][name] - before == calls, engine.stats()["unfused"]


def test_controlnet_scales_differ_within_a_forward() -> None:
    pipeline = FAMILIES["sd15-controlnet"].build()

    def requests() -> list[dict[str, Any]]:
        common = {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
        return [
            {
                "prompt": ("red", "blue", "green")[i],  # equal texts may come to differ by a bit
                "image": picture(i, 32),
                "controlnet_conditioning_scale": (0.3, 0.85, 1.0)[i],
                "generator": generator(i),
                **common,
            }
            for i in range(3)
        ]

    alone = [pipeline(**kwargs) for kwargs in requests()]
    assert difference(pipeline(**requests()[0] | {"controlnet_conditioning_scale": 0.85}), alone[0]) > 1e-3
    with Engine(pipeline, max_batch_rows=None) as engine:
        for _ in range(2):  # the first time is checked
            before = engine.stats()["forwards"].get("controlnet", 0)
            for one, result in zip(alone, engine.map(requests()), strict=True):
                assert difference(result, one) < 1e-4
        assert engine.stats()["forwards"]["controlnet"] - before == 2, engine.stats()["unfused"]


def test_what_requests_change_each_for_themselves_is_said_where_it_keeps_them_apart() -> None:
    pipeline = StableDiffusionSAGPipeline(**FAMILIES["sd15-ddim"].build().components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)

    def asked(i: int) -> dict[str, Any]:
        own = {"prompt": f"number {i}", "sag_scale": 0.75, "generator": generator(i), "output_type": "np"}
        return {**own, "height": 32, "width": 32, "num_inference_steps": 2}

    alone = [pipeline(**asked(i)) for i in range(2)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        for result, one in zip(engine.map([asked(i) for i in range(2)]), alone, strict=True):
            assert difference(result, one) < 1e-4
        said = engine.stats()["unfused"]["unet (UNet2DConditionModel)"]
    assert "in ways of their own" in said
    assert "forward_hooks" in said


def test_texts_of_several_lengths_that_cannot_share_are_right_and_said() -> None:
    family = FAMILIES["qwen-image-2.1"]
    pipeline = family.build()

    def asked(i: int) -> dict[str, Any]:
        own = family.requests()[3]
        return {**own, "prompt": ("a fox", "a fox and a hare under an oak")[i], "generator": generator(i)}

    alone = [pipeline(**asked(i)) for i in range(2)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        for result, one in zip(engine.map([asked(i) for i in range(2)]), alone, strict=True):
            assert difference(result, one) < 1e-4
        said = engine.stats()["unfused"]["transformer (QwenImage21Transformer2DModel)"]
    assert "one length of text" in said
