"""One request's work at each of the three parts, as what an engine runs; each hands on to the next as it goes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from interlace.engine.pipeline.channel import Channel
from interlace.engine.pipeline.randomness import Randomness, current
from interlace.stages.omni.parts import Family, SpeechRequest, Thought, device_of, items_of
from interlace.stages.omni.prefixes import Prefix, Prefixes, growing_cache


@dataclass
class Links:
    """What goes from part to part for one request."""

    thoughts: Channel[Thought] = field(default_factory=Channel)
    codes: Channel[Tensor] = field(default_factory=Channel)
    random: Channel[Randomness | None] = field(default_factory=Channel)  # the talker's, once it is done

    def close(self, error: BaseException | None = None) -> None:
        for channel in (self.thoughts, self.codes, self.random):
            channel.close(error)


class Run:
    """The work of `family`'s parts for one request after another; every method runs in a strand."""

    def __init__(self, family: Family, prefix_cache_gib: float = 0.0) -> None:
        self.family = family
        self.prefixes = Prefixes(int(prefix_cache_gib * 2**30))

    def think(
        self,
        inputs: Mapping[str, Any],
        generation: Mapping[str, Any],
        seed: int,
        take: Callable[[list[int]], bool],
        links: Links | None,
        num_prefix: int = 0,
    ) -> None:
        """Writes; `take(tokens)` hears of every token and says whether that is enough. Thoughts go to `links`.

        The first `num_prefix` tokens are a system prompt, which other requests may have too.
        """
        torch.manual_seed(seed)
        family = self.family
        inputs = _on(inputs, device_of(family, "thinker"))
        known = self._prefix(inputs, num_prefix)
        before = known.thought if known is not None else None

        def tell(ids: Tensor, hidden_states: Any) -> None:
            nonlocal before
            if links is not None:
                thought = family.thought(ids, hidden_states)
                links.thoughts.put(thought if before is None else before.followed_by(thought))
                before = None

        thinker = family.think(tell)
        watch = _Listener(take, inputs["input_ids"].shape[1])
        cached = {} if known is None else {"past_key_values": known.cache()}
        thinker.generate(**inputs, **generation, **cached, stopping_criteria=StoppingCriteriaList([watch]))
        if links is not None:
            links.thoughts.close()

    def _prefix(self, inputs: Mapping[str, Any], num_prefix: int) -> Prefix | None:
        """What is kept of a request's system prompt; None where that is not kept."""
        if not self.prefixes.wants(num_prefix) or "token_type_ids" in inputs:  # by which attention may look ahead
            return None
        config = self.family.model.config.thinker_config.get_text_config()
        cache, ids = growing_cache(config), inputs["input_ids"][:, :num_prefix]
        if cache is None:
            return None

        def make() -> Prefix:
            thoughts: list[Thought] = []
            speaks = self.family.model.has_talker

            def tell(ids: Tensor, hidden_states: Any) -> None:
                if speaks:
                    thoughts.append(self.family.thought(ids, hidden_states))

            thinker = self.family.think(tell)
            thinker(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
            return Prefix(cache, thoughts[0] if thoughts else None)

        return self.prefixes.get(tuple(ids[0].tolist()), make)

    def talk(self, inputs: Mapping[str, Any], speech: SpeechRequest, seed: int, links: Links) -> None:
        torch.manual_seed(seed)
        inputs = _on(inputs, device_of(self.family, "talker"))
        self.family.talk(inputs, items_of(links.thoughts), speech, links.codes)
        links.codes.close()
        drawn = current()
        links.random.put(drawn.copy() if drawn is not None else None)

    def speak(self, voice: str, seed: int, links: Links, hear: Callable[[Tensor], None] | None) -> Tensor:
        """The waveform [samples], all at once as the stock model makes it, or in pieces where somebody hears."""
        device = device_of(self.family, "code2wav")
        if hear is None:
            codes = [one.to(device) for one in items_of(links.codes)]
            own, drawn = current(), links.random.take()
            if own is not None and drawn is not None:
                own.continue_from(drawn)
            return self.family.sound(torch.cat(codes, dim=-1), voice) if codes else torch.zeros(0)
        torch.manual_seed(seed)
        return self._in_pieces(voice, links, hear, device)

    def _in_pieces(self, voice: str, links: Links, hear: Callable[[Tensor], None], device: torch.device) -> Tensor:
        family, pieces = self.family, []
        codes: list[Tensor] = []
        noise: list[Tensor] = []
        done = 0

        def piece(last: int) -> None:
            nonlocal done
            whole = torch.cat(codes, dim=-1)
            given = torch.cat(noise, dim=1) if noise else None
            pieces.append(family.sound_window(whole, voice, done, last, given))
            hear(pieces[-1])
            done = last

        for code in items_of(links.codes):
            codes.append(code.to(device))
            if (drawn := family.noise(1)) is not None:
                noise.append(drawn)
            if len(codes) - done >= family.window + family.lookahead:
                piece(done + family.window)
        if len(codes) > done:
            piece(len(codes))
        return torch.cat(pieces) if pieces else torch.zeros(0)


def _on(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


class Given(LogitsProcessor):
    """An answer whose tokens are known: each is the only one that can come, then the text ends."""

    def __init__(self, tokens: Sequence[int], num_prompt: int) -> None:
        self._tokens, self._num_prompt = tokens, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = min(input_ids.shape[1] - self._num_prompt, len(self._tokens) - 1)
        only = torch.full_like(scores, float("-inf"))
        only[:, self._tokens[place]] = 0.0
        return only


class _Listener(StoppingCriteria):
    """Tells of every token that `generate` adds; ends the text when nobody wants more."""

    def __init__(self, take: Callable[[list[int]], bool], num_prompt: int) -> None:
        self._take, self._num_prompt = take, num_prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        enough = self._take(input_ids[0, self._num_prompt :].tolist())
        return torch.full((input_ids.shape[0],), enough, dtype=torch.bool, device=input_ids.device)
