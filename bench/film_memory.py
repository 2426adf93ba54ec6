"""What a clip takes from its latents to its file: the peak of resident memory, ours beside diffusers' own way.

`python bench/film_memory.py` decodes 121 frames of 1280x720, five seconds at 24 a second, with a Wan autoencoder of few
channels and random weights: its own needs are small, so what is seen is the film. `streamed` is what Interlace does
with Wan; `whole` what it does with autoencoders that decode a film at once; `stock` is diffusers' way to pictures. Each
side runs in a process of its own. Ends with one JSON line; sizes are in MiB beyond what the process held before.
"""

import argparse
import json
import resource
import subprocess
import sys
from time import perf_counter
from typing import Any

_MIB = 2**20
_SIDES = ("streamed", "whole", "stock")


def main() -> None:
    """All sides, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--side", choices=_SIDES)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    if options.side:
        print(json.dumps(measure(options.side, options.frames, width, height)))
        return
    sides = {}
    for side in _SIDES:
        command = [sys.executable, __file__, "--frames", str(options.frames), "--size", options.size, "--side", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sides[side] = json.loads(done.stdout.splitlines()[-1])
        print(f"{side}: {sides[side]}", file=sys.stderr)
    values = options.frames * width * height * 3
    sizes = {"as_floats_mib": round(values * 4 / _MIB), "as_bytes_mib": round(values / _MIB)}
    print(json.dumps({"frames": options.frames, "size": options.size, **sizes, **sides}))


def measure(side: str, frames: int, width: int, height: int) -> dict[str, float]:
    """Peaks after the decode, after the frames are pictures or bytes, and after they are a file."""
    import torch
    from diffusers import AutoencoderKLWan
    from diffusers.video_processor import VideoProcessor

    from interlace.engine.pipeline.streamed import with_bytes
    from interlace.media.clip import Clip, Frames
    from interlace.media.formats.table import film_format
    from interlace.models.films.decoding import FilmKeeper
    from interlace.models.outputs import add_native
    from interlace.request import Output

    torch.manual_seed(0)
    vae: Any = AutoencoderKLWan(  # shaped as Wan 2.2's
        base_dim=2, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_spatial=16,
    ).eval()  # fmt: skip
    form = film_format("mp4")
    form.encode(Clip(Frames(torch.zeros(2, 64, 64, 3, dtype=torch.uint8).numpy()), 24), {})  # libraries are loaded
    latents = torch.randn(1, 16, 1 + (frames - 1) // 4, height // 16, width // 16)
    before, start = peak(), perf_counter()
    with torch.inference_mode():
        if side == "streamed":
            (video,) = with_bytes(vae, vae.decode)(latents, return_dict=False, as_bytes=True)
        else:
            (video,) = vae.decode(latents, return_dict=False)
    decoded, seconds = peak(), perf_counter() - start
    output = Output(request_id="film")
    if side == "stock":
        pictures = VideoProcessor(vae_scale_factor=8).postprocess_video(video, "pil")
        del video
        film = Frames.of(pictures[0])
    else:
        native: Any = FilmKeeper(vae_scale_factor=8).postprocess_video(video, "pt")
        add_native(output, _Native(native))
        del native, video
        film = output.frames[0]
    made = peak()
    size = len(form.encode(Clip(film, 24), {}))
    sizes = {"decoded": decoded - before, "frames": made - before, "file": peak() - before, "mp4": size // _MIB}
    return {**sizes, "decode_s": round(seconds, 1)}


class _Native:
    def __init__(self, frames: Any) -> None:
        self.frames = frames


def peak() -> int:
    """The process's largest resident memory so far, in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
