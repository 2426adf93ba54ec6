"""Looks at a picture of shapes and says what is there, from its pixels alone; scores it against a prompt."""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from interlace.demo.prompts import Wanted, parse
from interlace.demo.shapes import COLOURS, PLACES, SHAPES, draw_background, draw_mask, parity

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_NAMES = tuple(COLOURS)
_DIFFERENT = 70.0  # distance of RGB values from which a pixel is no longer background
_MIN_AREA = 0.005  # of the shorter side squared


@dataclass(frozen=True)
class Seen:
    """One thing in a picture; units as in `draw_mask`. `fit` is the overlap with the ideal shape."""

    shape: str
    colour: str
    x: float
    y: float
    half: float
    fit: float

    @property
    def size(self) -> str:
        """The nearest of the sizes."""
        return "small" if self.half < 0.165 else "medium" if self.half < 0.25 else "large"


@dataclass(frozen=True)
class SceneView:
    """What a picture shows."""

    pattern: str
    colours: tuple[str, ...]
    things: tuple[Seen, ...]


@dataclass(frozen=True)
class Score:
    """Which parts of a prompt a picture keeps, and whether all of them."""

    parts: dict[str, bool]
    view: SceneView

    @property
    def right(self) -> bool:
        return all(self.parts.values())


def look(image: Image.Image) -> SceneView:
    """Background and things of a picture."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    pattern, colours, backdrop = _find_background(pixels)
    front = np.linalg.norm(pixels - backdrop, axis=2) > _DIFFERENT
    labels = np.linalg.norm(pixels[:, :, None] - _PALETTE, axis=3).argmin(axis=2)
    labels = np.where(front, labels, -1)
    blobs = _blobs(labels)
    taken = [_filled_by(blobs, i) for i in range(len(blobs))]
    things = [_identify(mask, others, _NAMES[label]) for (label, mask), others in zip(blobs, taken, strict=True)]
    return SceneView(pattern, colours, _without_remains(things, [mask for _, mask in blobs]))


def _find_background(pixels: np.ndarray) -> tuple[str, tuple[str, ...], np.ndarray]:
    """The pattern that explains most of the pixels near the edge; a plain one when it does as well."""
    height, width = pixels.shape[:2]
    rim = np.zeros((height, width), dtype=bool)
    edge = max(min(height, width) // 12, 4)
    rim[:edge] = rim[-edge:] = rim[:, :edge] = rim[:, -edge:] = True
    labels = np.linalg.norm(pixels[:, :, None] - _PALETTE, axis=3).argmin(axis=2)
    best: tuple[float, str, tuple[str, ...], np.ndarray] | None = None
    for pattern in ("plain", "striped", "checked", "gradient"):
        if pattern == "gradient":
            ends = (labels[:edge], labels[-edge:])
        else:
            second = parity(pattern, width, height).astype(bool)
            ends = (labels[rim & ~second], labels[rim & second] if second.any() else labels[rim])
        colours = tuple(_NAMES[np.bincount(end.ravel(), minlength=len(_NAMES)).argmax()] for end in ends)
        if pattern == "plain":
            colours = colours[:1]
        elif colours[0] == colours[1]:
            continue
        backdrop = draw_background(pattern, colours, width, height)
        explained = float((np.linalg.norm(pixels - backdrop, axis=2)[rim] < _DIFFERENT).mean())
        if best is None or explained > best[0] + 0.05:
            best = (explained, pattern, colours, backdrop)
    assert best is not None
    return best[1:]


def _blobs(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(colour, mask) of each connected patch that is neither small nor a mere rim of another."""
    height, width = labels.shape
    smallest = _MIN_AREA * min(height, width) ** 2
    left, found = labels >= 0, []
    for start in zip(*np.nonzero(left), strict=True):
        if not left[start]:
            continue
        mask = _flood(labels, left, (int(start[0]), int(start[1])))
        if mask.sum() >= smallest and _core(mask).sum() >= 0.2 * mask.sum():
            found.append((int(labels[start]), mask))
    return found


def _flood(labels: np.ndarray, left: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    height, width = labels.shape
    mask, queue, colour = np.zeros_like(left), deque([start]), labels[start]
    left[start], mask[start] = False, True
    while queue:
        y, x = queue.popleft()
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < height and 0 <= u < width and left[v, u] and labels[v, u] == colour:
                left[v, u], mask[v, u] = False, True
                queue.append((v, u))
    return mask


def _core(mask: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours are in the mask too."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _filled_by(blobs: list[tuple[int, np.ndarray]], index: int) -> np.ndarray:
    """Pixels of the other blobs, grown by one: a thing may go on below them.

    Not below what surrounds it, nor below what shows that through its hole.
    """
    own = blobs[index][1]
    behind = {label for i, (label, mask) in enumerate(blobs) if i != index and _surrounds(mask, own)}
    others = np.zeros_like(own)
    for i, (label, mask) in enumerate(blobs):
        if i != index and label not in behind:
            others |= mask
    padded = np.pad(others, 1)
    return others | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _surrounds(outer: np.ndarray, inner: np.ndarray) -> bool:
    """Whether the box around `inner` lies well within that around `outer`."""
    return all(
        np.nonzero(outer.any(axis=axis))[0][0] + 1 < np.nonzero(inner.any(axis=axis))[0][0]
        and np.nonzero(inner.any(axis=axis))[0][-1] + 1 < np.nonzero(outer.any(axis=axis))[0][-1]
        for axis in (0, 1)
    )


def _without_remains(things: list[Seen], masks: list[np.ndarray]) -> tuple[Seen, ...]:
    """Drop patches of a larger thing of the same colour that show through what lies over it."""
    height, width = masks[0].shape if masks else (0, 0)
    kept = []
    for thing, mask in zip(things, masks, strict=True):
        larger = [t for t in things if t.colour == thing.colour and t.half > 1.3 * thing.half]
        ideals = [np.asarray(draw_mask(t.shape, t.x, t.y, t.half, width, height, scale=1)) > 0 for t in larger]
        if not any((ideal & mask).sum() > 0.7 * mask.sum() for ideal in ideals):
            kept.append(thing)
    return tuple(kept)


def _identify(mask: np.ndarray, others: np.ndarray, colour: str) -> Seen:
    """The shape that overlaps most with a blob, where nothing lies over it."""
    height, width = mask.shape
    side = min(height, width)
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    care, best = ~(others & ~mask), Seen(SHAPES[0], colour, 0.0, 0.0, 0.0, -1.0)
    touched = bool((others & ~mask)[top:bottom, left:right].any())
    for shape in SHAPES:
        x0, y0, x1, y1 = _extent(shape)
        by_width, by_height = (right - left) / (x1 - x0), (bottom - top) / (y1 - y0)
        halves = {(by_width + by_height) / 2, *((by_width, by_height) if touched else ())}
        for half in halves:
            middle = ((left + right) / 2 - half * (x0 + x1) / 2, (top + bottom) / 2 - half * (y0 + y1) / 2)
            corners = ((left - half * x0, top - half * y0), (right - half * x1, bottom - half * y1)) if touched else ()
            for cx, cy in (middle, *corners):
                ideal = np.asarray(draw_mask(shape, cx / width, cy / height, half / side, width, height, scale=1)) > 0
                union = ((ideal | mask) & care).sum()
                fit = float((ideal & mask).sum() / max(union, 1))
                if fit > best.fit:
                    best = Seen(shape, colour, float(cx / width), float(cy / height), float(half / side), fit)
    return best


def _extent(shape: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a shape of half extent 1."""
    return {
        "square": (-0.88, -0.88, 0.88, 0.88),
        "triangle": (-1, -1, 1, 0.85),
        "star": (-1, -1.05, 1, 0.85),
        "heart": (-1, -0.75, 1, 1.06),
        "moon": (-1, -1, 0.51, 1),
    }.get(shape, (-1, -1, 1, 1))


def score(image: Image.Image, prompt: str) -> Score:
    """Compare a picture with what `prompt` asks for."""
    view, wanted = look(image), parse(prompt)
    parts = {"count": len(view.things) == len(wanted.things)}
    if wanted.pattern is not None:
        parts["background"] = (view.pattern, view.colours) == (wanted.pattern, wanted.colours)
        if wanted.pattern in ("striped", "checked"):
            parts["background"] = view.pattern == wanted.pattern and set(view.colours) == set(wanted.colours)
    things = _assign(view.things, wanted.things)
    pairs = list(zip(things, wanted.things, strict=True))
    parts["shape"] = all(seen is not None and want.shape in (None, seen.shape) for seen, want in pairs)
    parts["colour"] = all(seen is not None and want.colour in (None, seen.colour) for seen, want in pairs)
    parts["size"] = all(seen is not None and want.size in (None, seen.size) for seen, want in pairs)
    if wanted.place is not None:
        x, y = PLACES[wanted.place]
        parts["place"] = things[0] is not None and abs(things[0].x - x) < 0.13 and abs(things[0].y - y) < 0.13
    if wanted.relation is not None:
        parts["relation"] = None not in things and _related([t for t in things if t], wanted.relation, image)
    return Score(parts, view)


def _assign(seen: tuple[Seen, ...], wanted: tuple[Wanted, ...]) -> list[Seen | None]:
    """For each wanted thing the seen one that has most in common with it."""
    left, chosen = list(seen), list[Seen | None]()
    for want in wanted:

        def likeness(thing: Seen, want: Wanted = want) -> int:
            return 2 * (thing.colour == want.colour) + (thing.shape == want.shape)

        best = max(left, key=likeness, default=None)
        chosen.append(best)
        if best is not None:
            left.remove(best)
    return chosen


def _related(things: list[Seen], relation: str, image: Image.Image) -> bool:
    return all(_pair_related(a, b, relation, image) for a, b in pairwise(things))


def _pair_related(a: Seen, b: Seen, relation: str, image: Image.Image) -> bool:
    across, down = b.x - a.x, b.y - a.y
    if relation in ("left of", "right of"):
        return (across if relation == "left of" else -across) > max(0.12, abs(down))
    if relation in ("above", "below"):
        return (down if relation == "above" else -down) > max(0.12, abs(across))
    if relation == "inside":
        return a.half < b.half and max(abs(across), abs(down)) < b.half * 0.6
    return _lies_over(b, a, image)


def _lies_over(front: Seen, back: Seen, image: Image.Image) -> bool:
    """Whether the two overlap and the pixels there have the colour of `front`."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width = pixels.shape[:2]
    masks = [np.asarray(draw_mask(t.shape, t.x, t.y, t.half, width, height, scale=1)) > 0 for t in (front, back)]
    both = pixels[masks[0] & masks[1]]
    if len(both) < 0.01 * min(height, width) ** 2:  # they hardly touch: either may be in front
        side, reach = min(height, width), front.half + back.half
        return abs(front.x - back.x) * width < reach * side and abs(front.y - back.y) * height < reach * side
    to_front, to_back = (np.linalg.norm(both - np.array(COLOURS[t.colour]), axis=1) for t in (front, back))
    return bool((to_front < to_back).mean() > 0.5)
