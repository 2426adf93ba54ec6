"""Encoders that take pictures or sounds packed one behind the other, as modules that take them one by one.

So the pictures and sounds of several requests share a forward. What stock code calls packs and unpacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling


class PictureEncoder(nn.Module):
    """Pictures one by one; `encoder` takes all their patches and a `grid_thw`. Layers of each picture come out."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, media_items: Sequence[Tensor], grids: Tensor) -> list[list[Tensor]]:
        """`media_items` are [patches, channels] each, `grids` [pictures, 3]: time, height and width in patches."""
        made = self.encoder(torch.cat(list(media_items)), grid_thw=grids)
        merged = (grids.prod(-1) // self.encoder.spatial_merge_size**2).tolist()
        layers = [made.pooler_output, *(getattr(made, "deepstack_features", None) or ())]
        return [list(layers) for layers in zip(*(layer.split(merged) for layer in layers), strict=True)]


class SoundEncoder(nn.Module):
    """Sounds one by one; `encoder` takes all their frames and `feature_lens`."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, media_items: Sequence[Tensor], lengths: Tensor, padded_to: int) -> list[Tensor]:
        """`media_items` are [frames, mels] each, `lengths` [sounds, 2]: frames, and what comes of them.

        `padded_to`: the frames that a forward of these alone pads its chunks to.
        """
        frames = torch.cat(list(media_items)).T
        made = self.encoder(frames, feature_lens=lengths[:, 0]).last_hidden_state
        return list(made.split(lengths[:, 1].tolist()))


class _Packed(nn.Module):
    """In the place of an encoder; its other attributes are the encoder's own."""

    def __init__(self, one_by_one: "PictureEncoder | SoundEncoder") -> None:
        super().__init__()
        self.one_by_one = one_by_one

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            alone: Any = super().__getattr__("one_by_one")
            return getattr(alone.encoder, name)


class PackedPictures(_Packed):
    """In the place of a vision encoder."""

    def __init__(self, encoder: Any) -> None:
        super().__init__(PictureEncoder(encoder))

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> Any:
        made = self.one_by_one(list(hidden_states.split(grid_thw.prod(-1).tolist())), grid_thw)
        pooled, *deep = (torch.cat(layer) for layer in zip(*made, strict=True))
        output = BaseModelOutputWithPooling(last_hidden_state=pooled, pooler_output=pooled)
        output.deepstack_features = deep
        return output


class PackedSounds(_Packed):
    """In the place of a sound encoder. `length_of(frames)` is how much comes of a sound; `padded_to(lengths)` says what
    chunks are padded to where padding can be heard: only sounds for which it is the same share a forward."""

    def __init__(
        self,
        encoder: Any,
        length_of: Callable[[Tensor], Tensor],
        padded_to: Callable[[Tensor], int] = lambda lengths: 0,
    ) -> None:
        super().__init__(SoundEncoder(encoder))
        self._length_of, self._padded_to = length_of, padded_to

    def forward(self, input_features: Tensor, feature_lens: Tensor, **_: Any) -> Any:
        items = list(input_features.T.split(feature_lens.tolist()))
        lengths = torch.stack([feature_lens, self._length_of(feature_lens)], dim=1)
        made = torch.cat(self.one_by_one(items, lengths, self._padded_to(feature_lens)))
        return BaseModelOutputWithPooling(last_hidden_state=made, pooler_output=made)
