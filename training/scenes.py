"""Scenes of coloured shapes: what stands in a picture, drawn with our own code at any size. Knows nothing of words."""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35), "orange": (250, 140, 20), "yellow": (250, 220, 40), "green": (40, 160, 60),
    "cyan": (60, 210, 220), "blue": (40, 70, 210), "purple": (130, 50, 170), "pink": (250, 130, 190),
    "white": (245, 245, 245), "black": (25, 25, 25),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
SIZES = {"small": 0.13, "medium": 0.2, "large": 0.3}  # half extent, in units of the shorter side
PLACES = {
    "left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73), "center": (0.5, 0.5),
    "top left": (0.27, 0.27), "top right": (0.73, 0.27), "bottom left": (0.27, 0.73), "bottom right": (0.73, 0.73),
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below", "inside", "behind")
PATTERNS = ("plain", "gradient", "striped", "checked")
_SUPERSAMPLING = 3


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


def _points(shape: str) -> list[tuple[float, float]]:
    """Outline in [-1, 1], y downwards."""
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "cross":
        w = 0.34
        return [
            (-w, -1),
            (w, -1),
            (w, -w),
            (1, -w),
            (1, w),
            (w, w),
            (w, 1),
            (-w, 1),
            (-w, w),
            (-1, w),
            (-1, -w),
            (-w, -w),
        ]
    if shape == "star":
        radii = (1.05, 0.42)
        angles = [(-math.pi / 2 + i * math.pi / 5, radii[i % 2]) for i in range(10)]
        return [(r * math.cos(a), r * math.sin(a)) for a, r in angles]
    if shape == "heart":
        turns = [i / 60 * 2 * math.pi for i in range(60)]
        return [
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
            for t in turns
        ]
    raise ValueError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")


def mask(thing: Thing, width: int, height: int) -> Image.Image:
    """Where a thing lies in a picture: 255 inside, 0 outside, smooth at the edge."""
    scale = _SUPERSAMPLING
    canvas = Image.new("L", (width * scale, height * scale), 0)
    draw = ImageDraw.Draw(canvas)
    half = thing.half * min(width, height) * scale
    cx, cy = thing.x * width * scale, thing.y * height * scale
    box = (cx - half, cy - half, cx + half, cy + half)
    if thing.shape in ("circle", "ring", "moon"):
        draw.ellipse(box, fill=255)
        if thing.shape == "ring":
            inner = half * 0.55
            draw.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=0)
        if thing.shape == "moon":
            shift, bite = half * 0.55, half * 0.85
            draw.ellipse((cx + shift - bite, cy - bite, cx + shift + bite, cy + bite), fill=0)
    else:
        draw.polygon([(cx + half * px, cy + half * py) for px, py in _points(thing.shape)], fill=255)
    return canvas.resize((width, height), Image.Resampling.BOX)


def _backdrop(background: Background, width: int, height: int) -> Image.Image:
    first = np.array(COLOURS[background.colours[0]], dtype=np.float32)
    second = np.array(COLOURS[background.colours[-1]], dtype=np.float32)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    side = min(width, height)
    if background.pattern == "gradient":
        share = rows / max(height - 1, 1)
    elif background.pattern == "striped":
        share = np.floor(columns / (side / 8)) % 2
    elif background.pattern == "checked":
        share = (np.floor(columns / (side / 4)) + np.floor(rows / (side / 4))) % 2
    else:
        share = np.zeros_like(rows)
    pixels = first + (second - first) * share[..., None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def render(scene: Scene, width: int = 128, height: int = 128) -> Image.Image:
    """The scene as an RGB picture."""
    picture = _backdrop(scene.background, width, height)
    for thing in scene.things:
        picture.paste(COLOURS[thing.colour], (0, 0, width, height), mask(thing, width, height))
    return picture


def random_background(rng: random.Random, *, plain_only: bool = False, avoid: tuple[str, ...] = ()) -> Background:
    """Plain in three of four cases; never a colour in `avoid`."""
    pattern = "plain" if plain_only or rng.random() < 0.75 else rng.choice(PATTERNS[1:])
    free = [colour for colour in COLOURS if colour not in avoid]
    return Background(pattern, tuple(rng.sample(free, 1 if pattern == "plain" else 2)))


def random_thing(rng: random.Random, colours: list[str], place: tuple[float, float], size: str | None = None) -> Thing:
    """A thing of one of `colours` near `place`."""
    size = size or rng.choice(list(SIZES))
    half = SIZES[size] * rng.uniform(0.93, 1.07)
    x, y = (min(max(p + rng.uniform(-0.03, 0.03), half), 1 - half) for p in place)
    return Thing(rng.choice(SHAPES), rng.choice(colours), size, x, y, half)


def random_scene(rng: random.Random, num_things: int | None = None, *, plain_only: bool = False) -> Scene:
    """One to three things. Two stand in a relation; a single one has a place."""
    count = num_things or rng.choices((1, 2, 3), (50, 43, 7))[0]
    colours = rng.sample(list(COLOURS), len(COLOURS))
    own = colours[:count]
    background = random_background(rng, plain_only=plain_only, avoid=tuple(own))
    if count == 1:
        place = rng.choice(list(PLACES)) if rng.random() < 0.6 else "center"
        return Scene(background, (random_thing(rng, own, PLACES[place]),), place=place)
    if count == 3:
        spots = rng.choice((((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)), ((0.5, 0.2), (0.5, 0.5), (0.5, 0.8))))
        things = tuple(random_thing(rng, [own[i]], spots[i], "small") for i in range(3))
        return Scene(background, things, relation="left of" if spots[0][1] == 0.5 else "above")
    return _pair(rng, own, background)


def _pair(rng: random.Random, colours: list[str], background: Background) -> Scene:
    relation = rng.choices(RELATIONS, (3, 3, 3, 3, 2, 2))[0]
    if relation == "inside":
        outer = replace(
            random_thing(rng, [colours[1]], (0.5, 0.5), "large"), shape=rng.choice(("circle", "square")), half=0.38
        )
        inner = random_thing(rng, [colours[0]], (outer.x, outer.y), "small")
        return Scene(background, (outer, replace(inner, x=outer.x, y=outer.y)), relation=relation)
    if relation == "behind":
        back = random_thing(rng, [colours[0]], (0.4, 0.42), "large")
        front = random_thing(rng, [colours[1]], (0.64, 0.64), "medium")
        back = replace(back, shape=rng.choice(("circle", "square", "triangle", "heart")))
        return Scene(background, (back, front), relation=relation)
    spots = {"left of": ((0.26, 0.5), (0.74, 0.5)), "above": ((0.5, 0.26), (0.5, 0.74))}
    first, second = spots.get(relation) or spots[{"right of": "left of", "below": "above"}[relation]][::-1]
    sizes = [rng.choice(("small", "medium")) for _ in range(2)]
    things = (random_thing(rng, [colours[0]], first, sizes[0]), random_thing(rng, [colours[1]], second, sizes[1]))
    return Scene(background, things, relation=relation)


def subject_and_other(scene: Scene) -> tuple[Thing, Thing]:
    """Of a pair: the thing that the relation speaks of, and the one that it is related to."""
    first, second = scene.things[:2]
    return (second, first) if scene.relation == "inside" else (first, second)
