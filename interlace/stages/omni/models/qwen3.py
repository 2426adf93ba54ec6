"""Qwen3-Omni: a talker with a code predictor for the residual codes, and a causal code2wav without diffusion."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

from interlace.engine.pipeline.channel import Channel
from interlace.errors import InvalidRequestError
from interlace.stages.omni.models.deepstack import ByToken, DeepLayers
from interlace.stages.omni.models.encoders import PackedPictures, PackedSounds
from interlace.stages.omni.models.shell import LastPosition, Layers, shell_of, watched
from interlace.stages.omni.parts import Growing, Items, SpeechRequest, Thought

_POSITIONS = ("image_grid_thw", "video_grid_thw", "video_second_per_grid")
_TALKER = {"do_sample": True, "top_k": 50, "top_p": 1.0, "temperature": 0.9, "repetition_penalty": 1.05}
_CHUNK, _CONTEXT = 300, 25  # codes, as the stock model decodes them
_SPECIAL = 1024  # the last ids of the talker's vocabulary, which are no codes


class Qwen3Omni:
    """`model` is a `Qwen3OmniMoeForConditionalGeneration`."""

    sample_rate = 24000
    window = 12  # codes of a streamed piece of sound: about a second
    lookahead = 0

    def __init__(self, model: Any) -> None:
        self.model, thinker = model, model.thinker
        accepted = model.config.talker_config.accept_hidden_layer if model.has_talker else -1
        self._text = DeepLayers(thinker.model.language_model, (0, accepted))
        self._pictures, self._sounds = PackedPictures(thinker.model.visual), _sounds(thinker.model.audio_tower)
        self._thinker: dict[nn.Module, nn.Module] = {
            thinker.model.language_model: ByToken(self._text),
            thinker.lm_head: LastPosition(thinker.lm_head),
            thinker.model.visual: self._pictures,
            thinker.model.audio_tower: self._sounds,
        }
        if not model.has_talker:
            return
        talker, predictor = model.talker, model.talker.code_predictor
        self._speech, self._residual = Layers(talker.model, (-1,)), Layers(predictor.model, (0,))
        self._talker: dict[nn.Module, nn.Module] = {
            talker.model: self._speech,
            talker.codec_head: LastPosition(talker.codec_head),
            predictor.model: self._residual,
            **{head: LastPosition(head) for head in predictor.lm_head},
        }

    def thinker_modules(self) -> dict[str, nn.Module]:
        return {"thinker": self._text, "thinker_head": self.model.thinker.lm_head,
                "image_encoder": self._pictures.one_by_one, "audio_encoder": self._sounds.one_by_one}  # fmt: skip

    def talker_modules(self) -> dict[str, nn.Module]:
        talker = self.model.talker
        heads = {f"residual_head_{i}": head for i, head in enumerate(talker.code_predictor.lm_head)}
        return {"talker": self._speech, "talker_head": talker.codec_head, "residual": self._residual, **heads}

    def code2wav_modules(self) -> dict[str, nn.Module]:
        return {"code2wav": self.model.code2wav}

    def voices(self) -> list[str]:
        return [str(name) for name in self.model.config.talker_config.speaker_id or {}]

    def think(self, tell: Callable[[Tensor, Any], None]) -> Any:
        return watched(shell_of(self.model.thinker, (), self._thinker), tell)

    def thought(self, ids: Tensor, hidden_states: tuple[Tensor, ...]) -> Thought:
        return Thought(ids, hidden_states[0], hidden_states[1])

    def talk(
        self, inputs: Mapping[str, Any], thoughts: Iterator[Thought], speech: SpeechRequest, codes: Channel[Tensor]
    ) -> None:
        prompt, first = next(thoughts), next(thoughts, None)
        if first is None:  # nothing to say
            return
        if inputs.get("use_audio_in_video"):  # the stock talker looks for a setting that its config lacks
            text = "Qwen3-Omni can't speak about a film that it hears, in transformers as it is; ask for text alone"
            raise InvalidRequestError(text, "modalities")
        model, config, device = self.model, self.model.config, self.model.talker.device
        prompt, first = prompt.to(device), first.to(device)
        bos, eos, pad = self._marks(prompt.ids).chunk(3, dim=1)
        users = _users(prompt.ids, config)
        user_embeds = model._get_talker_user_parts(
            0, prompt.ids.shape[1], self._is_media(prompt.ids), prompt.hidden, prompt.embeds
        )[:, users]
        start = _assistant_start(prompt.ids, config)
        known = torch.cat([prompt.embeds, first.embeds], dim=1)
        embeds, ids, trailing = model._get_talker_assistant_parts(
            start, known.shape[1], config.talker_config.speaker_id[speech.voice.lower()], known, pad, bos, eos
        )
        shell = watched(shell_of(model.talker, [], self._talker), lambda _, hidden: _tell(codes, hidden))
        positions = {name: inputs[name] for name in _POSITIONS if inputs.get(name) is not None}
        if inputs.get("feature_attention_mask") is not None:
            positions["audio_feature_lengths"] = inputs["feature_attention_mask"].sum(dim=1)
        whole = torch.cat([user_embeds, embeds], dim=1)
        vocabulary, end = config.talker_config.text_config.vocab_size, config.talker_config.codec_eos_token_id
        shell.generate(
            inputs_embeds=whole,
            trailing_text_hidden=Growing(Items(self._reply(trailing, thoughts), whole.shape[-1])),
            tts_pad_embed=pad,
            talker_input_ids=torch.cat([prompt.ids[:, users], ids], dim=1),
            attention_mask=prompt.ids.new_ones(1, whole.shape[1]),
            suppress_tokens=[i for i in range(vocabulary - _SPECIAL, vocabulary) if i != end],
            max_new_tokens=speech.max_tokens,
            **{**_TALKER, "eos_token_id": end, **speech.sampling},
            **positions,
        )

    def sound(self, codes: Tensor, voice: str) -> Tensor:
        waveform: Tensor = self.model.code2wav.chunked_decode(codes, chunk_size=_CHUNK, left_context_size=_CONTEXT)
        return waveform.reshape(-1).float()

    def sound_window(self, codes: Tensor, voice: str, first: int, last: int, noise: Tensor | None) -> Tensor:
        context = min(_CONTEXT, first)
        waveform: Tensor = self.model.code2wav(codes[..., first - context : last])
        return waveform[..., context * int(self.model.code2wav.total_upsample) :].reshape(-1).float()

    def noise(self, num_codes: int) -> Tensor | None:
        return None

    def _marks(self, like: Tensor) -> Tensor:
        """The talker's embeddings of where a text begins, ends, and of nothing, [1, 3, channels]."""
        config, thinker = self.model.config, self.model.thinker
        ids = torch.tensor([[config.tts_bos_token_id, config.tts_eos_token_id, config.tts_pad_token_id]])
        embedded = thinker.get_input_embeddings()(ids.to(thinker.device)).to(like.device)
        marks: Tensor = self.model.talker.text_projection(embedded)
        return marks

    def _reply(self, trailing: Tensor, thoughts: Iterator[Thought]) -> Iterator[Tensor]:
        """What the talker reads after the first text: the rest of the prompt's, each token's, the end of the text."""
        for place in range(trailing.shape[1] - 1):
            yield trailing[:, place : place + 1]
        for thought in thoughts:
            yield self.model.talker.text_projection(thought.embeds.to(trailing.device))
        yield trailing[:, -1:]

    def _is_media(self, ids: Tensor) -> Tensor:
        config = self.model.config.thinker_config
        media = (config.audio_token_id, config.image_token_id, config.video_token_id)
        return torch.isin(ids, ids.new_tensor(media))


def _sounds(tower: Any) -> PackedSounds:
    """Its convolutions hear what a sound shorter than a chunk is padded with."""
    window = int(tower.n_window)
    return PackedSounds(
        tower,
        lambda lengths: _get_feat_extract_output_lengths(lengths, window),
        lambda lengths: min(int(lengths.max()), 2 * window),
    )


def _tell(codes: Channel[Tensor], hidden: Any) -> None:
    """The talker's forward hands out the codes of the step before, [1, groups], beside its hidden states."""
    if hidden[-1] is not None:
        codes.put(hidden[-1].unsqueeze(-1))


def _users(ids: Tensor, config: Any) -> Tensor:
    """The places of what users said, [places]: from each start of a user's message to the next start of any."""
    places = torch.arange(ids.shape[1], device=ids.device)
    starts = torch.where(ids[0] == config.im_start_token_id, places, -1).cummax(0).values.clamp_min(0)
    roles = ids[0, (starts + 1).clamp_max(ids.shape[1] - 1)]
    return places[roles == config.user_token_id]


def _assistant_start(ids: Tensor, config: Any) -> int:
    """Where the answer's own message begins."""
    begins = (ids[0, :-1] == config.im_start_token_id) & (ids[0, 1:] == config.assistant_token_id)
    return int(begins.nonzero().flatten()[-1])
