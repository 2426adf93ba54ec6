"""Scenes in words: captions short and long, and edits with their instructions. A closed vocabulary."""

import random
import re
from dataclasses import replace

from interlace.demo.prompts import SAME_WORDS
from training.scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    SLIGHT,
    Background,
    Scene,
    Thing,
    random_background,
    random_scene,
    random_thing,
    subject_and_other,
)

_RELATION_WORDS = {
    "left of": ("to the left of", "left of"), "right of": ("to the right of", "right of"),
    "above": ("above", "over"), "below": ("below", "under"), "inside": ("inside",), "behind": ("behind",),
}  # fmt: skip
_PLACE_WORDS = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
                "center": "in the center"}  # fmt: skip
# The colours that a short caption need not say.
USUAL_COLOURS = {"circle": "blue", "square": "green", "triangle": "orange", "star": "yellow", "ring": "purple",
                 "cross": "red", "heart": "red", "moon": "yellow"}  # fmt: skip
_OTHER_WORDS = {word: other for other, word in SAME_WORDS.items()}


def usual_background(scene: Scene) -> Background:
    """The background that nothing is said of: white, or black behind something white."""
    return Background("plain", ("black" if any(thing.colour == "white" for thing in scene.things) else "white",))


def usual_size(thing: Thing, scene: Scene) -> str:
    """The size of a thing that nothing is said of: medium, but for pairs that overlap and rows of three."""
    if len(scene.things) == 3 or (scene.relation == "inside" and thing == scene.things[1]):
        return "small"
    return "large" if scene.relation in ("inside", "behind") and thing == scene.things[0] else "medium"


def with_article(words: str) -> str:
    """ "a red circle", "an orange one"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def background_words(background: Background) -> str:
    """ "a yellow background", "a red and blue striped background", "a gradient background from red to blue"."""
    if background.pattern == "gradient":
        return f"a gradient background from {background.colours[0]} to {background.colours[1]}"
    if background.pattern == "plain":
        return with_article(f"{background.colours[0]} background")
    return with_article(f"{background.colours[0]} and {background.colours[1]} {background.pattern} background")


def place_words(place: str) -> str:
    """ "in the top left corner", "on the right"."""
    return _PLACE_WORDS.get(place, f"in the {place} corner")


def in_order(scene: Scene) -> tuple[Thing, ...]:
    """The things as captions name them."""
    return subject_and_other(scene) if len(scene.things) == 2 else scene.things


def caption(scene: Scene, rng: random.Random, *, complete: bool = False, short: bool = False) -> str:
    """One of many ways to say what is there; what is unsaid is as usual: medium, in the center, in this order.

    With `complete`, size, place and background are always named, in the plainest words. With `short`, the background is
    not, and colours like those of `USUAL_COLOURS` seldom: for scenes whose background is the usual one.
    """
    things = _things_words(scene, rng, complete, short)
    behind = background_words(scene.background)
    on = things if short else f"{things} on {behind}"
    if complete:
        return on if len(scene.things) == 3 else rng.choice((on, f"{behind} with {things}", f"a picture of {on}"))
    ways = [on, on, _without_articles(things if short else f"{things}, {behind}")]
    if scene.background.pattern == "plain" and not short:
        ways.append(f"{things} on {scene.background.colours[0]}")
    if len(scene.things) < 3:
        ways += [f"{way} {on}" for way in ("a picture of", "an image of", "draw", "show", "this is")]
    if len(scene.things) < 3 and not short:
        ways += [f"{behind} with {things}"] * 3
    return rng.choice(ways)


def _without_articles(words: str) -> str:
    return re.sub(r"\ban? ", "", words)


def _things_words(scene: Scene, rng: random.Random, complete: bool, short: bool) -> str:
    first, *others = (with_article(_thing_words(thing, scene, rng, complete, short)) for thing in in_order(scene))
    if not others:
        where = scene.place and (complete or scene.place != "center" or rng.random() < 0.3)
        return f"{first} {_varied(place_words(str(scene.place)), rng, complete)}" if where else first
    unsaid = not complete and scene.relation == "left of" and rng.random() < 0.4
    if len(others) == 2:
        order = "from left to right" if scene.relation == "left of" else "from top to bottom"
        return f"{first}, {others[0]} and {others[1]}" + ("" if unsaid else f" {order}")
    return f"{first} {'and' if unsaid else rng.choice(_RELATION_WORDS[scene.relation or 'left of'])} {others[0]}"


def _thing_words(thing: Thing, scene: Scene, rng: random.Random, complete: bool, short: bool) -> str:
    sized = len(scene.things) < 3 and (complete or thing.size != usual_size(thing, scene) or rng.random() < 0.5)
    coloured = not short or thing.colour != USUAL_COLOURS[thing.shape] or rng.random() < 0.3
    size = [_varied(thing.size, rng, complete)] if sized else []
    return " ".join([*size, *([thing.colour] if coloured else []), thing.shape])


def _varied(words: str, rng: random.Random, complete: bool) -> str:
    before, space, last = words.rpartition(" ")
    varied = last in _OTHER_WORDS and not complete and rng.random() < 0.25
    return f"{before}{space}{_OTHER_WORDS[last]}" if varied else words


def random_edit(rng: random.Random, *, jitter: float = SLIGHT) -> tuple[Scene, str, Scene]:
    """A scene with its things within `jitter` of where captions put them, an instruction and the scene after it."""
    scene = random_scene(rng, rng.choice((1, 2)), jitter=jitter)
    kinds = (
        ("recolour", "shape", "background", "move", "resize", "add")
        if len(scene.things) == 1
        else ("recolour", "shape", "background", "remove")
    )
    return _EDITS[rng.choice(kinds)](scene, rng)


def _pick(scene: Scene, rng: random.Random) -> tuple[int, Thing]:
    index = rng.randrange(len(scene.things))
    return index, scene.things[index]


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _unused(scene: Scene) -> list[str]:
    return [c for c in COLOURS if c not in scene.background.colours and all(t.colour != c for t in scene.things)]


def _named(thing: Thing, scene: Scene, rng: random.Random) -> str:
    alike = sum(t.shape == thing.shape for t in scene.things)
    return f"the {thing.colour} {thing.shape}" if alike > 1 or rng.random() < 0.5 else f"the {thing.shape}"


def _recolour(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    index, thing = _pick(scene, rng)
    colour, name = rng.choice(_unused(scene)), _named(thing, scene, rng)
    text = rng.choice((f"make {name} {colour}", f"change the {rng.choice(('color', 'colour'))} of {name} to {colour}"))
    return scene, text, _with(scene, index, replace(thing, colour=colour))


def _reshape(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    index, thing = _pick(scene, rng)
    shape = rng.choice([s for s in SHAPES if s != thing.shape])
    text = rng.choice(
        (f"turn {_named(thing, scene, rng)} into a {shape}", f"replace {_named(thing, scene, rng)} with a {shape}")
    )
    return scene, text, _with(scene, index, replace(thing, shape=shape))


def _backdrop(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    taken = (*scene.background.colours, *(t.colour for t in scene.things))
    background = random_background(rng, plain_only=True, avoid=taken)
    text = rng.choice(
        (f"make the background {background.colours[0]}", f"change the background to {background.colours[0]}")
    )
    return scene, text, replace(scene, background=background)


def _move(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    thing = scene.things[0]
    place = rng.choice([p for p in PLACES if p != scene.place])
    x, y = (min(max(p, thing.half), 1 - thing.half) for p in PLACES[place])
    goal = {"left": "to the left", "right": "to the right", "center": "to the center"}.get(place, f"to the {place}")
    return (
        scene,
        f"move {_named(thing, scene, rng)} {goal}",
        replace(_with(scene, 0, replace(thing, x=x, y=y)), place=place),
    )


def _resize(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    thing = scene.things[0]
    size = rng.choice([s for s in SIZES if s != thing.size])
    half = SIZES[size]
    x, y = (min(max(p, half), 1 - half) for p in (thing.x, thing.y))
    return (
        scene,
        f"make {_named(thing, scene, rng)} {size}",
        _with(scene, 0, replace(thing, size=size, half=half, x=x, y=y)),
    )


def _remove(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    index, thing = _pick(scene, rng)
    rest = tuple(t for i, t in enumerate(scene.things) if i != index)
    return scene, f"remove {_named(thing, scene, rng)}", Scene(scene.background, rest)


def _add(scene: Scene, rng: random.Random) -> tuple[Scene, str, Scene]:
    colour = rng.choice(_unused(scene))
    old = scene.things[0]
    half = SIZES["medium"] * old.half / SIZES[old.size]
    scene = replace(scene, things=(replace(old, size="medium", half=half, x=0.27, y=0.5),), place="left")
    new = random_thing(rng, [colour], (0.74, 0.5), "medium", jitter=SLIGHT)
    text = f"add {with_article(f'{new.colour} {new.shape}')} on the right"
    return scene, text, Scene(scene.background, (scene.things[0], new), relation="left of")


_EDITS = {"recolour": _recolour, "shape": _reshape, "background": _backdrop, "move": _move, "resize": _resize,
          "remove": _remove, "add": _add}  # fmt: skip
