"""What a prompt in the demo model's language asks for."""

import re
from dataclasses import dataclass

from interlace.demo.shapes import COLOURS, PLACES, SHAPES, SIZES

_COLOUR, _SHAPE, _SIZE = "|".join(COLOURS), "|".join(SHAPES), "|".join(SIZES)
SAME_WORDS = {"big": "large", "tiny": "small", "middle": "center"}
_RELATION_WORDS = {"left of": "left of", "right of": "right of", "above": "above", "over": "above", "below": "below",
                   "under": "below", "inside": "inside", "behind": "behind"}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A thing that a prompt asks for; None where it leaves the choice."""

    shape: str | None
    colour: str | None
    size: str | None


@dataclass(frozen=True)
class Expectation:
    """What a prompt asks for."""

    things: tuple[Wanted, ...]
    relation: str | None
    place: str | None
    pattern: str | None
    colours: tuple[str, ...]


def parse(prompt: str) -> Expectation:
    """The things, their relation or place and the background in a prompt of the demo model's language."""
    words = prompt.lower().replace(",", " ").replace(".", " ").split()
    text, pattern, colours = _background_words(" ".join(SAME_WORDS.get(word, word) for word in words))
    found = re.findall(rf"(?:\b({_SIZE}) )?(?:\b({_COLOUR}) )?\b({_SHAPE})\b", text)
    things = tuple(Wanted(shape, colour or None, size or None) for size, colour, shape in found)
    relation = place = None
    if len(things) == 3:
        relation = "left of" if "left to right" in text else "above" if "top to bottom" in text else None
    elif len(things) == 2:
        between = re.search(rf"\b({'|'.join(_RELATION_WORDS)})\b", text)
        relation = _RELATION_WORDS[between[1]] if between else None
    elif len(things) == 1:
        place = next((p for p in sorted(PLACES, key=len, reverse=True) if re.search(rf"\b(the|on) {p}\b", text)), None)
    return Expectation(things, relation, place, pattern, colours)


def _background_words(text: str) -> tuple[str, str | None, tuple[str, ...]]:
    patterns = (
        (rf"gradient background from ({_COLOUR}) to ({_COLOUR})", "gradient"),
        (rf"({_COLOUR}) and ({_COLOUR}) striped background", "striped"),
        (rf"({_COLOUR}) and ({_COLOUR}) checked background", "checked"),
        (rf"({_COLOUR}) background", "plain"),
        (rf"\bon ({_COLOUR})$", "plain"),
    )
    for expression, pattern in patterns:
        if match := re.search(expression, text):
            return text[: match.start()] + "|" + text[match.end() :], pattern, match.groups()
    return text, None, ()
