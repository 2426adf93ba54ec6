"""Language models into whose first layers pictures' features go again (Qwen3): by token, so that rows can be shared."""

from typing import Any

import torch
from torch import Tensor, nn

from interlace.stages.omni.models.shell import Layers


class DeepLayers(Layers):
    """`Layers` with the features of pictures as [rows, tokens, layers, channels]; zero where there is no picture."""

    def forward(self, *args: Any, visual_features: Tensor | None = None, **kwargs: Any) -> Any:
        mask = kwargs.get("visual_pos_masks")
        if visual_features is not None and mask is not None:
            kwargs["deepstack_visual_embeds"] = list(visual_features[mask].unbind(1))
        return super().forward(*args, **kwargs)


class ByToken(nn.Module):
    """Stands for a `DeepLayers` where stock code has a layer's features of pictures alone, [tokens, channels]."""

    def __init__(self, layers: DeepLayers) -> None:
        super().__init__()
        self.layers_ = layers

    def forward(
        self, *args: Any, visual_pos_masks: Tensor | None = None, deepstack_visual_embeds: Any = None, **kwargs: Any
    ) -> Any:
        if visual_pos_masks is None or deepstack_visual_embeds is None:
            return self.layers_(*args, **kwargs)
        features = torch.stack(list(deepstack_visual_embeds), dim=1)
        spread = features.new_zeros(*visual_pos_masks.shape, *features.shape[1:])
        spread[visual_pos_masks] = features
        return self.layers_(*args, visual_pos_masks=visual_pos_masks, visual_features=spread, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layers_"), name)
