"""Every frame as a PNG, in a zip: nothing is lost. `film.json` says how it was made, and how many frames a second."""

import io
import json
import zipfile
from collections.abc import Mapping

from PIL import Image

from interlace.media.clip import Clip
from interlace.media.sound import encode_wav

_THEN = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: equal frames give equal bytes


def png_frames(clip: Clip, record: Mapping[str, object]) -> bytes:
    """00000.png, 00001.png, ..., `film.json`, and `sound.wav` where there is sound."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:

        def put(name: str, data: bytes) -> None:
            file.writestr(zipfile.ZipInfo(name, _THEN), data)  # stored: a PNG is as small as it gets

        for number, pixels in enumerate(clip.watched()):
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG", compress_level=1)
            put(f"{number:05d}.png", png.getvalue())
        if clip.sound is not None:
            put("sound.wav", encode_wav(clip.sound.samples, clip.sound.rate))
        facts = {**record, "num_frames": len(clip.frames), "fps": clip.fps}
        put("film.json", json.dumps(facts, ensure_ascii=False, indent=2).encode())
    return buffer.getvalue()
