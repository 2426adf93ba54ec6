"""The demo models: the checker against known scenes, the captions' words, and what is shipped."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from interlace.demo import MODELS
from interlace.demo.check import look, score
from interlace.demo.prompts import Wanted, parse
from interlace.demo.shapes import parity
from training.captions import caption, random_edit
from training.evaluate import prompts, short_prompts
from training.scenes import Background, Scene, Thing, random_scene, render
from training.words import MAX_TOKENS, tokenizer, vocabulary

SHIPPED = MODELS["demo"].path.is_dir()


def test_checker_is_right_about_known_scenes() -> None:
    rng, right, count = random.Random(7), 0, 200
    for i in range(count):
        scene = random_scene(rng)
        size = (128, 128) if i % 2 else (rng.randrange(64, 193, 16), rng.randrange(64, 193, 16))
        right += score(render(scene, *size), caption(scene, rng, complete=True)).right
    assert right / count >= 0.98


def test_checker_notices_every_wrong_thing() -> None:
    thing = Thing("star", "red", "medium", 0.5, 0.5, 0.2)
    picture = render(Scene(Background("plain", ("blue",)), (thing,), place="center"))
    assert score(picture, "a medium red star in the center on a blue background").right
    for wrong, part in (
        ("a medium red heart on a blue background", "shape"),
        ("a medium green star on a blue background", "colour"),
        ("a large red star on a blue background", "size"),
        ("a red star in the top left corner on a blue background", "place"),
        ("a red star on a white background", "background"),
        ("a red star on a blue and white striped background", "background"),
        ("a red star above a red star on a blue background", "count"),
    ):
        found = score(picture, wrong)
        assert not found.parts[part], wrong


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below", "inside", "behind"])
def test_checker_tells_relations_apart(relation: str) -> None:
    rng = random.Random(3)
    scene = next(s for s in iter(lambda: random_scene(rng, 2, plain_only=True), None) if s.relation == relation)
    text = caption(scene, rng, complete=True)
    picture = render(scene)
    assert score(picture, text).parts["relation"]
    swapped = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    if other := swapped.get(relation):
        things = parse(text).things
        named = [f"a {thing.colour} {thing.shape}" for thing in things]
        background = f"a {scene.background.colours[0]} background"
        assert not score(picture, f"{named[0]} {other} {named[1]} on {background}").parts["relation"]


def test_a_ring_is_no_circle_where_what_surrounds_it_shows_through() -> None:
    outer = Thing("square", "purple", "large", 0.5, 0.5, 0.38)
    for shape in ("ring", "circle"):
        inner = Thing(shape, "cyan", "small", 0.5, 0.5, 0.13)
        view = look(render(Scene(Background("plain", ("yellow",)), (outer, inner))))
        assert sorted(seen.shape for seen in view.things) == sorted(("square", shape))


@pytest.mark.parametrize("pattern", ["striped", "checked"])
def test_patterns_are_as_large_in_every_picture(pattern: str) -> None:
    assert np.array_equal(parity(pattern, 112, 160), parity(pattern, 192, 192)[:160, :112])


def test_empty_picture_holds_nothing() -> None:
    view = look(Image.new("RGB", (96, 64), (220, 30, 35)))
    assert (view.pattern, view.colours, view.things) == ("plain", ("red",), ())


def test_captions_and_instructions_stay_in_the_vocabulary_and_fit() -> None:
    words, rng = tokenizer(), random.Random(11)
    unknown = words.convert_tokens_to_ids("<unk>")
    assert len(vocabulary()) < 150
    for _ in range(300):
        scene = random_scene(rng)
        told = (caption(scene, rng), caption(scene, rng, complete=True), caption(scene, rng, short=True))
        for text in (*told, random_edit(rng)[1]):
            tokens = words(text).input_ids
            assert unknown not in tokens
            assert len(tokens) <= MAX_TOKENS + 1, text


def test_what_a_prompt_says_agrees_with_what_it_means() -> None:
    for prompt in (*prompts(100, 1), *prompts(100, 2), *short_prompts(200)):
        said, meant = parse(prompt.text), parse(prompt.meaning)
        for one, other in zip(said.things, meant.things, strict=True):
            assert one.shape == other.shape
            assert one.colour in (None, other.colour)
            assert one.size in (None, other.size)
        assert said.place in (None, meant.place)
        assert said.relation in (None, meant.relation)
        assert said.pattern is None or (said.pattern, said.colours) == (meant.pattern, meant.colours)
    assert len({prompt.text.split()[0] for prompt in short_prompts(200)}) > 8


def test_other_words_and_what_goes_without_saying() -> None:
    assert parse("A BIG red heart in the middle on blue.") == parse(
        "a large red heart in the center on a blue background"
    )
    assert parse("an orange star").things == (Wanted("star", "orange", None),)
    assert parse("an orange star").pattern is None
    assert parse("a red star on a blue circle").pattern is None


def test_scenes_are_the_same_for_the_same_seed() -> None:
    first, second = (random_scene(random.Random(5)) for _ in range(2))
    assert first == second
    assert render(first).tobytes() == render(second).tobytes()


@pytest.mark.skipif(not SHIPPED, reason="no trained model in this tree")
@pytest.mark.parametrize("folder", ["demo/tokenizer_2", "demo-expand"])
def test_shipped_models_know_the_words_of_the_captions(folder: str) -> None:
    shipped = json.loads((MODELS["demo"].path.parent / folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(shipped, key=shipped.__getitem__) == vocabulary()


@pytest.mark.skipif(not SHIPPED, reason="no trained model in this tree")
def test_shipped_models_are_small_and_complete() -> None:
    folder = MODELS["demo"].path.parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 25e6
    settings = json.loads((MODELS["demo"].path / "interlace.json").read_text())
    assert {"FluxPipeline", "FluxKontextPipeline"} <= settings["defaults"].keys()
    assert all((model.path / "README.md").is_file() for model in MODELS.values() if model.path.is_dir())


@pytest.mark.skipif(not SHIPPED, reason="no trained model in this tree")
@pytest.mark.parametrize("name", ["demo", "demo-edit"])
def test_shipped_model_draws_at_any_size(name: str) -> None:
    import torch

    from interlace.models.loader import load_model

    model = load_model(name, device="cpu")
    assert type(model.pipeline).__name__ == MODELS[name].pipeline_class
    model.pipeline.set_progress_bar_config(disable=True)
    arguments = {**model.defaults, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    if name == "demo-edit":
        scene = random_scene(random.Random(1))
        picture = model.pipeline(prompt="make the background red", image=render(scene), **arguments).images[0]
        assert picture.size == (128, 128)
    else:
        arguments |= {"height": 64, "width": 112}
        assert model.pipeline(prompt="a red circle on a blue background", **arguments).images[0].size == (112, 64)


@pytest.mark.skipif(not SHIPPED, reason="no trained model in this tree")
def test_shipped_model_draws_what_was_asked_for() -> None:
    from interlace import Omni, SamplingParams

    prompts = (
        "a small red circle on a blue background",
        "a large yellow star in the center on a black background",
        "a medium green square in the top left corner on a pink background",
        "a large white heart on a purple background",
        "a medium red circle left of a medium blue square on a white background",
        "a small yellow square inside a large black circle on a cyan background",
    )
    with Omni("demo") as omni:
        outputs = omni.generate(prompts, SamplingParams(seed=1), raise_on_error=True)
    scores = [score(output.images[0], prompt) for output, prompt in zip(outputs, prompts, strict=True)]
    assert all(found.parts["background"] and found.parts["colour"] for found in scores)
    assert sum(found.right for found in scores) >= 4


@pytest.mark.skipif(not MODELS["demo-expand"].path.is_dir(), reason="no trained language model in this tree")
def test_expanded_ideas_keep_to_the_known_words() -> None:
    from training.language import expand, fits

    ideas = ["a star", "something round and red", "a blue heart", "a dragon in love"]
    prompts = expand(MODELS["demo-expand"].path, ideas)
    known = set(vocabulary()) - {"<unk>", "<pad>", "<bos>"}
    for prompt in prompts:
        assert set(prompt.replace(",", " ,").split()) <= known
        assert parse(prompt).things
        assert parse(prompt).pattern
    assert all(fits(idea, prompt) for idea, prompt in zip(ideas[:3], prompts, strict=False))
