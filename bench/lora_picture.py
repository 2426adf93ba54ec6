"""docs/images/lora.jpg: one prompt with no adapter, each of the two that come with the model, and both, in one batch.

python bench/lora_picture.py [PATH]
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from interlace import Omni

PROMPT = "a large red circle on a white background"
CHOICES = {
    "no adapter": "none",
    "outline": "outline",
    "pastel": "pastel",
    "outline + pastel": "outline, pastel",
}
SIDE, EDGE, CAPTION = 128, 12, 26  # pixels


def main(path: Path) -> None:
    """Draw, and say how many rows the denoiser's widest forward had."""
    requests = [{"prompt": PROMPT, "seed": 1, "lora": lora} for lora in CHOICES.values()]
    with Omni("demo", lora=["outline", "pastel"], max_batch_rows=None) as omni:
        outputs = omni.generate(requests, {"height": SIDE, "width": SIDE}, raise_on_error=True)
        rows = max(omni.engine.stats()["widths"]["transformer"])
    sheet = Image.new("RGB", (len(CHOICES) * (SIDE + EDGE) + EDGE, SIDE + 2 * EDGE + CAPTION), "white")
    write = ImageDraw.Draw(sheet)
    for number, (caption, output) in enumerate(zip(CHOICES, outputs, strict=True)):
        left = EDGE + number * (SIDE + EDGE)
        sheet.paste(output.image, (left, EDGE))
        middle = (left + SIDE // 2, EDGE + SIDE + CAPTION // 2 + EDGE // 2)
        write.text(middle, caption, fill="black", anchor="mm", font=ImageFont.load_default(16))
    sheet.save(path, quality=92)
    print(f"{path}: up to {rows} pictures in a forward of the denoiser")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs/images/lora.jpg")
