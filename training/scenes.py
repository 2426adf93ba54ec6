"""Scenes of coloured shapes: what stands in a picture, drawn with our own code at any size. Knows nothing of words."""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from interlace.demo.shapes import COLOURS, PATTERNS, PLACES, RELATIONS, SHAPES, SIZES, draw_background, draw_mask

HARD = {"star": 3, "cross": 2, "ring": 2}  # how much oftener these are shown in training than other shapes
HARDEST = 6
SLIGHT, WIDE = 0.01, 0.03  # how far things stand from where they belong, of the picture


@dataclass(frozen=True)
class Thing:
    """One shape; `x`, `y` its centre in [0, 1] of the picture, `half` its half extent in units of the shorter side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    half: float


@dataclass(frozen=True)
class Background:
    """`pattern` over `colours`: one for plain, two for the others."""

    pattern: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """`things` are drawn in order, later over earlier. `relation` is that of the first thing to the second."""

    background: Background
    things: tuple[Thing, ...]
    place: str | None = None  # of a single thing
    relation: str | None = None


def hardness(thing: Thing) -> int:
    """How often a thing is shown in training beside others, 1 to `HARDEST`: small ones, and stars, are hard to draw."""
    return (2 if thing.size == "small" else 1) * HARD.get(thing.shape, 1)


def render(scene: Scene, width: int = 128, height: int = 128) -> Image.Image:
    """The scene as an RGB picture."""
    backdrop = draw_background(scene.background.pattern, scene.background.colours, width, height)
    picture = Image.fromarray(backdrop.round().astype(np.uint8))
    for thing in scene.things:
        mask = draw_mask(thing.shape, thing.x, thing.y, thing.half, width, height)
        picture.paste(COLOURS[thing.colour], (0, 0, width, height), mask)
    return picture


def random_background(rng: random.Random, *, plain_only: bool = False, avoid: tuple[str, ...] = ()) -> Background:
    """Plain in three of four cases; never a colour in `avoid`."""
    pattern = "plain" if plain_only or rng.random() < 0.75 else rng.choice(PATTERNS[1:])
    free = [colour for colour in COLOURS if colour not in avoid]
    return Background(pattern, tuple(rng.sample(free, 1 if pattern == "plain" else 2)))


def random_thing(
    rng: random.Random, colours: list[str], place: tuple[float, float], size: str | None = None, *, jitter: float = WIDE
) -> Thing:
    """A thing of one of `colours` near `place`."""
    size = size or rng.choice(list(SIZES))
    half = SIZES[size] * rng.uniform(1 - 2 * jitter, 1 + 2 * jitter)
    x, y = (min(max(p + rng.uniform(-jitter, jitter), half), 1 - half) for p in place)
    return Thing(rng.choice(SHAPES), rng.choice(colours), size, x, y, half)


def random_scene(
    rng: random.Random, num_things: int | None = None, *, plain_only: bool = False, jitter: float = WIDE
) -> Scene:
    """One to three things. Two stand in a relation; a single one has a place."""
    count = num_things or rng.choices((1, 2, 3), (50, 43, 7))[0]
    colours = rng.sample(list(COLOURS), len(COLOURS))
    own = colours[:count]
    background = random_background(rng, plain_only=plain_only, avoid=tuple(own))
    if count == 1:
        place = rng.choice(list(PLACES)) if rng.random() < 0.6 else "center"
        return Scene(background, (random_thing(rng, own, PLACES[place], jitter=jitter),), place=place)
    if count == 3:
        spots = rng.choice((((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)), ((0.5, 0.2), (0.5, 0.5), (0.5, 0.8))))
        things = tuple(random_thing(rng, [own[i]], spots[i], "small", jitter=jitter) for i in range(3))
        return Scene(background, things, relation="left of" if spots[0][1] == 0.5 else "above")
    return _pair(rng, own, background, jitter)


def _pair(rng: random.Random, colours: list[str], background: Background, jitter: float) -> Scene:
    relation = rng.choices(RELATIONS, (3, 3, 3, 3, 2, 2))[0]
    if relation == "inside":
        outer = replace(
            random_thing(rng, [colours[1]], (0.5, 0.5), "large", jitter=jitter),
            shape=rng.choice(("circle", "square")),
            half=0.38,
        )
        inner = random_thing(rng, [colours[0]], (outer.x, outer.y), "small", jitter=jitter)
        return Scene(background, (outer, replace(inner, x=outer.x, y=outer.y)), relation=relation)
    if relation == "behind":
        back = random_thing(rng, [colours[0]], (0.4, 0.42), "large", jitter=jitter)
        front = random_thing(rng, [colours[1]], (0.64, 0.64), "medium", jitter=jitter)
        back = replace(back, shape=rng.choice(("circle", "square", "triangle", "heart")))
        return Scene(background, (back, front), relation=relation)
    spots = {"left of": ((0.26, 0.5), (0.74, 0.5)), "above": ((0.5, 0.26), (0.5, 0.74))}
    first, second = spots.get(relation) or spots[{"right of": "left of", "below": "above"}[relation]][::-1]
    sizes = [rng.choice(("small", "medium")) for _ in range(2)]
    things = (random_thing(rng, [colours[i]], spot, sizes[i], jitter=jitter) for i, spot in enumerate((first, second)))
    return Scene(background, tuple(things), relation=relation)


def subject_and_other(scene: Scene) -> tuple[Thing, Thing]:
    """Of a pair: the thing that the relation speaks of, and the one that it is related to."""
    first, second = scene.things[:2]
    return (second, first) if scene.relation == "inside" else (first, second)
