"""Textual inversions: a file's vectors as a token that prompts may use."""

from collections.abc import Mapping
from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from interlace.errors import InvalidRequestError

# What files for pipelines with two text encoders (SDXL) call their parts.
_PARTS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}


def load_embeddings(pipeline: DiffusionPipeline, wanted: Mapping[str, str]) -> None:
    """`wanted` is {token: file}. Raises `InvalidRequestError` where a file or the pipeline doesn't allow it."""
    for token, source in wanted.items():
        path = Path(source).expanduser()
        if not hasattr(pipeline, "load_textual_inversion"):
            text = f"embedding {token!r}: {type(pipeline).__name__} takes no textual inversions; leave it out"
            raise InvalidRequestError(text, "embedding")
        if path.suffix and not path.is_file() and source.count("/") != 1:
            raise InvalidRequestError(f"embedding {token!r}: there is no file {source}", "embedding")
        try:
            _load(pipeline, token, path if path.is_file() else source)
        except Exception as error:  # of diffusers, safetensors and the hub: no common base
            words = " ".join(str(error).split())[:300]
            raise InvalidRequestError(f"embedding {token!r}: can't use {source}: {words}", "embedding") from error


def _load(pipeline: DiffusionPipeline, token: str, source: Path | str) -> None:
    tensors = load_file(source) if isinstance(source, Path) and source.suffix == ".safetensors" else {}
    parts = {name: value for name, value in tensors.items() if name in _PARTS}
    if not parts:
        pipeline.load_textual_inversion(str(source), token=token)
        return
    for name, vectors in parts.items():
        encoder, tokenizer = _PARTS[name]
        pipeline.load_textual_inversion(
            {token: vectors},
            token=token,
            text_encoder=getattr(pipeline, encoder),
            tokenizer=getattr(pipeline, tokenizer),
        )
