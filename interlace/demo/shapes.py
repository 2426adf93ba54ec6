"""The small world that the demo models know: colours, shapes, sizes, places, and how they are drawn. Knows no torch."""

import math
from functools import cache

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
STRIPE, CHECK = 16, 32  # pixels across


@cache
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The polygon of a shape in [-1, 1], y downwards. The round ones (circle, ring, moon) have none."""
    if shape == "square":
        return ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88))
    if shape == "triangle":
        return ((0, -1), (1, 0.85), (-1, 0.85))
    if shape == "cross":
        w = 0.34
        return (
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
        )
    if shape == "star":
        radii = (1.05, 0.42)
        angles = [(-math.pi / 2 + i * math.pi / 5, radii[i % 2]) for i in range(10)]
        return tuple((r * math.cos(a), r * math.sin(a)) for a, r in angles)
    if shape == "heart":
        turns = [i / 60 * 2 * math.pi for i in range(60)]
        return tuple(
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
            for t in turns
        )
    raise ValueError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")


def draw_mask(shape: str, x: float, y: float, half: float, width: int, height: int, *, scale: int = 3) -> Image.Image:
    """255 inside, 0 outside. `x`, `y` in [0, 1] of the picture, `half` in units of the shorter side."""
    canvas = Image.new("L", (width * scale, height * scale), 0)
    draw = ImageDraw.Draw(canvas)
    half = half * min(width, height) * scale
    cx, cy = x * width * scale, y * height * scale
    if shape in ("circle", "ring", "moon"):
        draw.ellipse((cx - half, cy - half, cx + half, cy + half), fill=255)
        if shape == "ring":
            inner = half * 0.55
            draw.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=0)
        if shape == "moon":
            shift, bite = half * 0.55, half * 0.85
            draw.ellipse((cx + shift - bite, cy - bite, cx + shift + bite, cy + bite), fill=0)
    else:
        draw.polygon([(cx + half * px, cy + half * py) for px, py in outline(shape)], fill=255)
    return canvas if scale == 1 else canvas.resize((width, height), Image.Resampling.BOX)


def draw_background(pattern: str, colours: tuple[str, ...], width: int, height: int) -> np.ndarray:
    """[height, width, 3] as floats: one colour for plain, two for gradient (downwards), striped and checked."""
    first = np.array(COLOURS[colours[0]], dtype=np.float32)
    second = np.array(COLOURS[colours[-1]], dtype=np.float32)
    share = parity(pattern, width, height).astype(np.float32)
    if pattern == "gradient":
        share += np.arange(height, dtype=np.float32)[:, None] / max(height - 1, 1)
    return first + (second - first) * share[..., None]


def parity(pattern: str, width: int, height: int) -> np.ndarray:
    """[height, width]: 0 where a pattern shows its first colour, 1 where it shows its second.

    Like wallpaper, patterns are as large in a large picture as in a small one.
    """
    rows, columns = np.mgrid[0:height, 0:width]
    if pattern == "striped":
        return (columns // STRIPE % 2).astype(np.uint8)
    if pattern == "checked":
        return ((columns // CHECK + rows // CHECK) % 2).astype(np.uint8)
    return np.zeros((height, width), dtype=np.uint8)
