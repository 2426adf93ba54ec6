"""What an omni-modal model is made of, and what its parts hand to each other. Each family of models fills this in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from interlace.engine.pipeline.channel import Channel, ChannelClosedError

T = TypeVar("T")


@dataclass(frozen=True)
class Thought:
    """What the thinker knows of some tokens: their ids, input embeddings and one layer's hidden states."""

    ids: Tensor  # [1, tokens]
    embeds: Tensor  # [1, tokens, channels]
    hidden: Tensor  # [1, tokens, channels]

    def to(self, device: torch.device) -> "Thought":
        return Thought(self.ids.to(device), self.embeds.to(device), self.hidden.to(device))

    def followed_by(self, other: "Thought") -> "Thought":
        pairs = zip((self.ids, self.embeds, self.hidden), (other.ids, other.embeds, other.hidden), strict=True)
        return Thought(*(torch.cat(pair, dim=1) for pair in pairs))


@dataclass(frozen=True)
class SpeechRequest:
    """How a request is to be spoken; None leaves the choice to the model."""

    voice: str
    max_tokens: int
    sampling: Mapping[str, Any] = field(default_factory=dict)  # do_sample, temperature, top_k, top_p, ...


class Family(Protocol):
    """What differs between omni-modal models. `modules` of each part are those whose forwards are shared, by name."""

    model: Any
    sample_rate: int
    window: int  # codes that a streamed piece of sound is made of
    lookahead: int  # codes behind those that it needs, where they are to come

    def thinker_modules(self) -> dict[str, nn.Module]: ...

    def talker_modules(self) -> dict[str, nn.Module]: ...

    def code2wav_modules(self) -> dict[str, nn.Module]: ...

    def voices(self) -> list[str]: ...

    def think(self, tell: Callable[[Tensor, Any], None]) -> Any:
        """A request's thinker: its `generate` calls `tell(ids, hidden_states)` after every forward."""

    def thought(self, ids: Tensor, hidden_states: tuple[Tensor, ...]) -> Thought: ...

    def talk(
        self, inputs: Mapping[str, Any], thoughts: Iterator[Thought], speech: SpeechRequest, codes: "Channel[Tensor]"
    ) -> None:
        """Speech tokens of a reply into `codes`, [1, groups, 1] or [1, 1] each.

        `thoughts` are the prompt's, then those of each token of the reply.
        """

    def sound(self, codes: Tensor, voice: str) -> Tensor:
        """The waveform [samples] of all codes of a reply, by the stock model."""

    def noise(self, num_codes: int) -> Tensor | None:
        """What the sampling of so many codes starts from, [1, frames, channels]; None where nothing is drawn."""

    def sound_window(self, codes: Tensor, voice: str, first: int, last: int, noise: Tensor | None) -> Tensor:
        """The waveform [samples] of codes `first` to `last` of a reply, from some codes around them."""


def modules_of(family: Family, part: str) -> dict[str, nn.Module]:
    """Those of a part whose forwards are shared, by name."""
    of = {"thinker": family.thinker_modules, "talker": family.talker_modules, "code2wav": family.code2wav_modules}
    return of[part]()


def device_of(family: Family, part: str) -> torch.device:
    """Where a part runs."""
    return next(parameter.device for module in modules_of(family, part).values() for parameter in module.parameters())


class Growing:
    """Stands for [rows, items, channels] of which items are still being made: asking for more than there is waits.

    Stock talkers read one item a step, by `shape[1]`, `[:, i]`, `[:, :1, :]` and `[:, 1:, :]`.
    """

    def __init__(self, items: "Items", start: int = 0) -> None:
        self._items, self._start = items, start

    @property
    def shape(self) -> tuple[int, "_Count", int]:
        return 1, _Count(self._items, self._start), self._items.channels

    def __getitem__(self, index: Any) -> Any:
        place = index[1] if isinstance(index, tuple) else None
        if isinstance(place, int):
            return self._items.at(self._start + place)[:, 0]
        if isinstance(place, slice) and place.stop is None and place.step is None:
            return Growing(self._items, self._start + (place.start or 0))
        if isinstance(place, slice) and place.step is None:
            span = range(self._start + (place.start or 0), self._start + place.stop)
            return torch.cat([self._items.at(i) for i in span], dim=1)
        raise TypeError(f"hidden states that are still being made can't be indexed with {index!r}")


class Items:
    """Items [1, 1, channels] that come one after the other, kept as long as they may be asked for."""

    def __init__(self, source: Iterator[Tensor], channels: int) -> None:
        self._source, self.channels = source, channels
        self._made: list[Tensor] = []
        self._ended = False

    def has(self, index: int) -> bool:
        """Whether there is, or will be, an item at `index`; waits until that is known."""
        while len(self._made) <= index and not self._ended:
            try:
                self._made.append(next(self._source))
            except StopIteration:
                self._ended = True
        return index < len(self._made)

    def at(self, index: int) -> Tensor:
        if not self.has(index):
            raise IndexError(f"there are {len(self._made)} items, not {index + 1}")
        return self._made[index]


class _Count:
    """How many items there are from `start` on, as far as it is asked: `> n` waits for n + 1."""

    def __init__(self, items: Items, start: int) -> None:
        self._items, self._start = items, start

    def __gt__(self, number: int) -> bool:
        return self._items.has(self._start + number)


def items_of(channel: "Channel[T]") -> Iterator[T]:
    """What comes through a channel, up to its end. Raises the error that it was closed with."""
    while True:
        try:
            yield channel.take()
        except ChannelClosedError:
            return
