"""What to tell people who ask the built-in model for more than it knows."""

from collections.abc import Sequence

from interlace.demo.prompts import parse
from interlace.demo.shapes import SHAPES

GOOD_FROM = 112  # pixels a side; smaller pictures come out worse


def notes(prompts: Sequence[str], width: int | None, height: int | None) -> list[str]:
    """Lines on prompts without any shape, and on a size that is small for the model. None of them is an error."""
    found = []
    strange = [prompt for prompt in prompts if prompt.strip() and not parse(prompt).things]
    if strange:
        known = ", ".join(SHAPES)
        found.append(
            f"the built-in model draws only shapes ({known}); {strange[0]!r} becomes the nearest that it knows. "
            "For anything else name a model: --model stable-diffusion-v1-5/stable-diffusion-v1-5 --variant fp16 "
            "--size 512x512 (3 GB to download; more in README.md, Real pictures)"
        )
    if min(width or GOOD_FROM, height or GOOD_FROM) < GOOD_FROM:
        found.append("the built-in model draws best with sides of 112 to 192 pixels; smaller pictures come out worse")
    return found
