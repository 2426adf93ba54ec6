"""What the denoiser's probes are told is what captions and pictures say."""

import random

import torch

from interlace.demo.shapes import COLOURS, PATTERNS, SHAPES, SIZES
from training.captions import caption, in_order, random_edit
from training.probes import cells_of, changed, facts_of
from training.scenes import Background, Scene, Thing, random_scene
from training.words import MAX_TOKENS, tokenizer

RED_STAR = Thing("star", "red", "small", 0.5, 0.5, 0.13)
BLUE_SQUARE = Thing("square", "blue", "large", 0.5, 0.5, 0.38)
INSIDE = Scene(Background("striped", ("white", "black")), (BLUE_SQUARE, RED_STAR), relation="inside")
NAMES = list(COLOURS)


def test_cells_show_the_upper_thing_and_its_colour() -> None:
    shapes, colours = (maps.unflatten(1, (8, 8)) for maps in cells_of([INSIDE], 8, 8))
    assert shapes.shape == (1, 8, 8, 16)
    assert set(shapes[0, 3, 3].tolist()) >= {1 + SHAPES.index("star")}  # one of the four tokens around the centre
    assert set(shapes[0, 1, 1].tolist()) >= {1 + SHAPES.index("square")}
    assert shapes[0, 0].sum() == 0  # nothing over the square
    assert set(colours[0, 0].unique().tolist()) == {NAMES.index("white"), NAMES.index("black")}
    assert torch.equal(colours[shapes == 1 + SHAPES.index("star")].unique(), torch.tensor([NAMES.index("red")]))


def test_the_middle_of_a_gradient_has_no_colour() -> None:
    scene = Scene(Background("gradient", ("pink", "cyan")), ())
    colours = cells_of([scene], 8, 8)[1].unflatten(1, (8, 8))[0, :, 0, 0].tolist()
    assert colours == [NAMES.index("pink")] * 2 + [-100] * 4 + [NAMES.index("cyan")] * 2


def test_each_shape_word_is_told_of_its_own_thing() -> None:
    words = tokenizer()
    text = "a striped background with a small red star inside a large blue square"
    ids = words([text], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    facts = facts_of(ids, [in_order(INSIDE)], [INSIDE.background], words)[0]
    of = dict(zip(text.split(), facts.tolist(), strict=False))
    assert of["star"][:2] == [NAMES.index("red"), list(SIZES).index("small")]
    assert of["square"][:2] == [NAMES.index("blue"), list(SIZES).index("large")]
    assert of["background"][4:] == [PATTERNS.index("striped"), NAMES.index("white"), NAMES.index("black")]
    assert set(of["red"]) == {-100}


def test_every_caption_names_its_things_in_order() -> None:
    rng, words = random.Random(3), tokenizer()
    for _ in range(300):
        scene = random_scene(rng)
        ids = words([caption(scene, rng)], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        colours = facts_of(ids, [in_order(scene)], [scene.background], words)[0, :, 0]
        for at in (colours != -100).nonzero().flatten().tolist():
            assert words.convert_ids_to_tokens(ids[0, at - 1].item()) == NAMES[colours[at]]  # "red star"


def test_an_instruction_names_the_thing_it_means_and_what_that_becomes() -> None:
    rng, kinds = random.Random(5), set()
    for _ in range(300):
        before, text, after = random_edit(rng)
        named = changed(before, after)
        spoken = [word for word in text.split() if word in SHAPES]
        assert spoken == [thing.shape for thing in named[: len(spoken)]]
        assert bool(spoken) == bool(named)  # neither for a new background
        kinds.add((len(spoken), len(named)))
    assert kinds == {(0, 0), (1, 1), (1, 2), (2, 2)}
