"""Any language model of transformers that sees or hears, as the thinker alone of an omni-modal model."""

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from interlace.engine.pipeline.channel import Channel
from interlace.stages.omni.models.encoders import PackedPictures
from interlace.stages.omni.models.shell import LastPosition, shell_of, watched
from interlace.stages.omni.parts import SpeechRequest, Thought

_ENCODERS = ("visual", "vision_tower", "vision_model", "audio_tower", "audio_model")

_PACKED = ("Qwen2_5_VisionTransformerPretrainedModel", "Qwen2VisionTransformerPretrainedModel")


class _Alone:
    """A model in the place of one with parts."""

    has_talker = False

    def __init__(self, model: Any) -> None:
        self.thinker, self.config = model, SimpleNamespace(thinker_config=model.config)
        self.parameters = model.parameters


class Seeing:
    """`model` is what `AutoModelForMultimodalLM` loads. It writes; it doesn't speak."""

    sample_rate, window, lookahead = 0, 1, 0

    def __init__(self, model: Any) -> None:
        self.model, self._whole = _Alone(model), model
        self.class_name = type(model).__name__
        head = model.get_output_embeddings()
        self._head = head if isinstance(head, nn.Module) and _is_child(model, head) else None
        self._text = _text_model(model)
        found = {name.rsplit(".", 1)[-1]: part for name, part in model.named_modules() if name.endswith(_ENCODERS)}
        outermost = {f"{name}_encoder": part for name, part in found.items() if _is_outermost(part, found)}
        self._packed = {part: PackedPictures(part) for part in outermost.values() if type(part).__name__ in _PACKED}
        self._encoders = {name: self._packed[part].one_by_one if part in self._packed else part
                          for name, part in outermost.items()}  # fmt: skip

    def thinker_modules(self) -> dict[str, nn.Module]:
        heads = {"thinker_head": self._head} if self._head is not None else {}
        return {"thinker": self._text, **heads, **self._encoders}

    def think(self, tell: Callable[[Tensor, Any], None]) -> Any:
        instead: dict[nn.Module, nn.Module] = dict(self._packed)
        if self._head is not None:
            instead[self._head] = LastPosition(self._head)
        return watched(shell_of(self._whole, [self._text, *self._encoders.values()], instead), tell)

    def thought(self, ids: Tensor, hidden_states: tuple[Tensor, ...]) -> Thought:
        raise NotImplementedError("nobody reads its thoughts")

    def talker_modules(self) -> dict[str, nn.Module]:
        return {}

    def code2wav_modules(self) -> dict[str, nn.Module]:
        return {}

    def voices(self) -> list[str]:
        return []

    def noise(self, num_codes: int) -> Tensor | None:
        return None

    def talk(
        self, inputs: Mapping[str, Any], thoughts: Iterator[Thought], speech: SpeechRequest, codes: "Channel[Tensor]"
    ) -> None:
        raise NotImplementedError("the model has no talker")

    def sound(self, codes: Tensor, voice: str) -> Tensor:
        raise NotImplementedError("the model has no code2wav")

    def sound_window(self, codes: Tensor, voice: str, first: int, last: int, noise: Tensor | None) -> Tensor:
        raise NotImplementedError("the model has no code2wav")


def _text_model(model: Any) -> nn.Module:
    """What makes hidden states of token embeddings: the module whose calls bring the key-value cache."""
    for name, part in model.named_modules():
        if name.endswith(("language_model", "text_model")) and hasattr(part, "layers"):
            return part
    found = model.get_decoder()
    return found if found is not None else model.model


def _is_child(model: nn.Module, part: nn.Module) -> bool:
    return any(part is one for one in model.modules())


def _is_outermost(part: nn.Module, found: Mapping[str, nn.Module]) -> bool:
    return not any(part is not other and _is_child(other, part) for other in found.values())
