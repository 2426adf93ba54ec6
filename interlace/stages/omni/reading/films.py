"""A model's processor, and films for it where torchvision isn't there: frames are read as its pictures are, in pairs.

transformers reads films by torchvision alone. What a pair of frames comes to is what the picture processor makes of
each, side by side, so that the patches are the same up to how pixels are resized.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.utils import is_torchvision_available

from interlace.models.places import model_folder, read_settings


def with_films(source: str, options: Mapping[str, Any]) -> Any:
    """The processor of a directory or hub id. Raises whatever transformers raises for what is none."""
    if is_torchvision_available():
        return transformers.AutoProcessor.from_pretrained(source, **options)
    stock = getattr(transformers, _class_of(source, options))
    takes = inspect.signature(stock.__init__).parameters
    if "video_processor" not in takes:
        return transformers.AutoProcessor.from_pretrained(source, **options)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    parts: dict[str, Any] = {"tokenizer": tokenizer}
    parts["image_processor"] = images = AutoImageProcessor.from_pretrained(source, **options)
    parts["video_processor"] = PairedFrames(images) if hasattr(images, "temporal_patch_size") else NoFilms()
    if "feature_extractor" in takes:
        parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(source, **options)
    kept = {"__module__": stock.__module__, "check_argument_for_proper_class": lambda self, name, value: None}
    made = type(stock.__name__, (stock,), kept)
    template = _template(source, options) or getattr(tokenizer, "chat_template", None)
    said = _settings(source, "processor_config.json", options)
    own = {name: said[name] for name in said.keys() & takes.keys() if name not in (*parts, "chat_template")}
    return made(**parts, **own, chat_template=template)


class NoFilms:
    """Stands for the video processor of a model whose films only transformers' own can read."""

    num_frames = fps = None


class PairedFrames:
    """Stands for a video processor of the Qwen family: `temporal_patch_size` frames make one layer of patches."""

    def __init__(self, images: Any) -> None:
        self._images = images
        self.merge_size, self.temporal_patch_size = images.merge_size, images.temporal_patch_size

    def fetch_videos(self, videos: Any, **_: Any) -> Any:
        return videos, [None] * len(videos)

    def __call__(self, videos: Sequence[Sequence[Image.Image]], **_: Any) -> BatchFeature:
        made = [self._film(frames) for frames in videos]
        pixels = torch.cat([patches for patches, _ in made])
        return BatchFeature({"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([grid for _, grid in made])})

    def _film(self, frames: Sequence[Image.Image]) -> tuple[torch.Tensor, list[int]]:
        """Patches [layers x height x width, channels x pair x patch x patch] and their grid."""
        pair = self.temporal_patch_size
        frames = [*frames, *[frames[-1]] * (-len(frames) % pair)]
        read = self._images(images=list(frames), return_tensors="pt")
        grid = read["image_grid_thw"][0].tolist()
        each = torch.as_tensor(read["pixel_values"]).reshape(len(frames), grid[1] * grid[2], -1, pair, self._area)
        layers = [
            torch.stack([each[start + place, :, :, place] for place in range(pair)], dim=2)
            for start in range(0, len(frames), pair)
        ]
        patches = torch.cat([layer.flatten(1) for layer in layers])
        return patches, [len(frames) // pair, grid[1], grid[2]]

    @property
    def _area(self) -> int:
        return int(self._images.patch_size) ** 2


def _class_of(source: str, options: Mapping[str, Any]) -> str:
    """The processor class that a model names, or that its config's model type stands for."""
    named = _settings(source, "processor_config.json", options).get("processor_class")
    named = named or _settings(source, "preprocessor_config.json", options).get("processor_class")
    if named:
        return str(named)
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    config = transformers.AutoConfig.from_pretrained(source, **options)
    return str(PROCESSOR_MAPPING_NAMES[config.model_type])


def _template(source: str, options: Mapping[str, Any]) -> str | None:
    from transformers.utils import cached_file

    path = cached_file(source, "chat_template.jinja", _raise_exceptions_for_missing_entries=False, **options)
    if path is not None:
        return Path(path).read_text(encoding="utf-8")
    return _settings(source, "chat_template.json", options).get("chat_template")


def _settings(source: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    folder = model_folder(source)
    if folder is not None:
        return read_settings(folder / name)
    from transformers.utils import cached_file

    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **options)
    return read_settings(Path(path)) if path is not None else {}
