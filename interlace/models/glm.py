"""GLM-Image with pictures: bridges diffusers 0.42, which expects the features of all pictures as one list of tokens,
and transformers 5.10 and later, which hands out a map a picture.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_TOKEN = 32  # pixels a side of one token of the language model


def mend_glm_image(pipeline: "DiffusionPipeline") -> None:
    """Makes edits work where the two libraries disagree; changes nothing where they agree. May be called again."""
    encoder = getattr(pipeline, "vision_language_encoder", None)
    if encoder is None or getattr(encoder, "_interlace_mended", False):
        return
    features, tokens = encoder.get_image_features, encoder.get_image_tokens

    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        """The pipeline calls by position and wants rows of channels; transformers itself calls by name."""
        found = features(*args, **kwargs)
        if args and found.pooler_output[0].ndim == 3:  # [channels, height, width]
            found.pooler_output = [one.flatten(1).T for one in found.pooler_output]
        return found

    def get_image_tokens(hidden_states: Any, image_grid_thw: Tensor | None = None) -> Any:
        if isinstance(hidden_states, Tensor) and hidden_states.ndim == 2 and image_grid_thw is not None:
            grids: list[list[int]] = image_grid_thw.tolist()
            parts = torch.split(hidden_states, [t * h * w for t, h, w in grids])
            hidden_states = [part.T.reshape(-1, h, w) for part, (_, h, w) in zip(parts, grids, strict=True)]
        return tokens(hidden_states, image_grid_thw)

    if _wants_maps(encoder):
        encoder.get_image_features, encoder.get_image_tokens = get_image_features, get_image_tokens
    encoder._interlace_mended = True


def _wants_maps(encoder: Any) -> bool:
    """Whether each picture's features go through the quantiser as they come: then they are maps."""
    return "image_grid_thw" not in inspect.getsource(type(encoder.model).get_image_tokens).split('"""')[-1]


def fit_picture(pipeline: "DiffusionPipeline", image: Image.Image) -> Image.Image:
    """The picture in a size that both halves of the model see alike: sides in multiples of 32, within its limits.

    Others end in an error within the pipeline, where the language model's grid and the VAE's differ by a row.
    """
    size = pipeline.processor.image_processor.size
    low, high = (round(size[name] ** 0.5) for name in ("shortest_edge", "longest_edge"))
    low, high = max(low, _TOKEN), max(high, _TOKEN)
    scale = max(1.0, low / min(image.size))
    scale = min(scale, high / max(image.size))
    width, height = (min(max(round(side * scale / _TOKEN), 1) * _TOKEN, high // _TOKEN * _TOKEN) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)
