"""Qwen2.5-Omni: the talker reads the reply's embeddings and last hidden states, the code2wav is a DiT and a vocoder."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import RungeKutta4ODESolver

from interlace.engine.pipeline.channel import Channel
from interlace.stages.omni.models.encoders import PackedPictures, PackedSounds
from interlace.stages.omni.models.shell import Layers, Scored, shell_of, watched
from interlace.stages.omni.parts import Growing, Items, SpeechRequest, Thought

_MEDIA = ("audio_token_index", "image_token_index", "video_token_index")
_GIVEN = ("input_features", "pixel_values", "pixel_values_videos")  # the inputs that those stand for
_POSITIONS = ("image_grid_thw", "video_grid_thw", "video_second_per_grid", "use_audio_in_video")
_TALKER = {"do_sample": True, "top_k": 40, "top_p": 0.8, "temperature": 0.9, "repetition_penalty": 1.05}
_STEPS, _GUIDANCE, _SWAY = 10, 0.5, -1.0  # the stock model's defaults


class Qwen2_5Omni:
    """`model` is a `Qwen2_5OmniForConditionalGeneration`."""

    sample_rate = 24000
    window = 24  # codes of a streamed piece of sound: two blocks of the DiT's attention
    lookahead = 12  # one block

    def __init__(self, model: Any) -> None:
        self.model, thinker = model, model.thinker
        self._text = Layers(thinker.model.language_model, (0, -1), thinker.lm_head)
        self._pictures = PackedPictures(thinker.model.visual)
        tower = thinker.model.audio_tower
        self._sounds = PackedSounds(tower, lambda lengths: tower._get_feat_extract_output_lengths(lengths)[1])
        self._heard: dict[str, Tensor] = {}  # by voice
        if model.has_talker:
            self._speech = Layers(model.talker.model, (), model.talker.codec_head)
            hearing = model.token2wav.code2wav_dit_model.input_embed.spk_encoder
            self._token2wav = shell_of(model.token2wav, (), {hearing: _Heard()})

    def thinker_modules(self) -> dict[str, nn.Module]:
        encoders = {"image_encoder": self._pictures.one_by_one, "audio_encoder": self._sounds.one_by_one}
        return {"thinker": self._text, **encoders}

    def talker_modules(self) -> dict[str, nn.Module]:
        return {"talker": self._speech}

    def code2wav_modules(self) -> dict[str, nn.Module]:
        part = self._token2wav
        return {"dit": part.code2wav_dit_model, "vocoder": part.code2wav_bigvgan_model}

    def voices(self) -> list[str]:
        return list(self.model.speaker_map)

    def think(self, tell: Callable[[Tensor, Any], None]) -> Any:
        thinker = self.model.thinker
        inner, text = thinker.model, Scored(self._text)
        instead = {inner.language_model: text, thinker.lm_head: text.in_heads_place,
                   inner.visual: self._pictures, inner.audio_tower: self._sounds}  # fmt: skip
        return watched(shell_of(thinker, (), instead), tell)

    def thought(self, ids: Tensor, hidden_states: tuple[Tensor, ...]) -> Thought:
        return Thought(ids, hidden_states[0], hidden_states[1])

    def talk(
        self, inputs: Mapping[str, Any], thoughts: Iterator[Thought], speech: SpeechRequest, codes: Channel[Tensor]
    ) -> None:
        prompt, first = next(thoughts), next(thoughts, None)
        if first is None:  # nothing to say
            return
        model, talker = self.model, self.model.talker
        prompt, first = prompt.to(talker.device), first.to(talker.device)
        bos = model.speaker_map[speech.voice]["bos_token"]
        ids = prompt.ids
        embeds = prompt.embeds.clone()
        for name, given in zip(_MEDIA, _GIVEN, strict=True):
            if inputs.get(given) is not None:
                embeds[ids == getattr(model.config.thinker_config, name)] = 0
        start = torch.cat([prompt.hidden + embeds, self._embed(bos, ids), first.hidden + first.embeds], dim=1)
        mask = ids.new_full(ids.shape, talker.codec_mask_token)
        special = ids.new_tensor([[talker.codec_pad_token, talker.codec_bos_token]])
        end = list(speech.sampling.get("eos_token_id") or (8292, 8294))
        reading = Scored(self._speech)
        shell = shell_of(talker, (), {talker.model: reading, talker.codec_head: reading.in_heads_place})
        shell = watched(shell, lambda *_: None)
        positions = {name: inputs[name] for name in _POSITIONS if inputs.get(name) is not None}
        if inputs.get("feature_attention_mask") is not None:
            positions["audio_feature_lengths"] = inputs["feature_attention_mask"].sum(dim=1)
        shell.generate(
            input_ids=torch.cat([mask, special], dim=1),
            input_text_ids=torch.cat([ids, ids.new_tensor([[bos]]), first.ids], dim=1),
            thinker_reply_part=Growing(Items(self._reply(thoughts, ids), start.shape[-1])),
            inputs_embeds=start,
            attention_mask=ids.new_ones(1, start.shape[1]),
            suppress_tokens=[talker.codec_bos_token],
            pad_token_id=talker.codec_pad_token,
            max_new_tokens=speech.max_tokens,
            streamer=_Codes(codes, end),
            **{**_TALKER, **speech.sampling, "eos_token_id": end},
            **positions,
        )

    def sound(self, codes: Tensor, voice: str) -> Tensor:
        condition, heard = self._speaker(voice, codes.device)
        waveform: Tensor = self._token2wav(codes, conditioning=condition, reference_mel=heard)
        return waveform.reshape(-1).float()

    def noise(self, num_codes: int) -> Tensor | None:
        dit = self.model.token2wav.code2wav_dit_model
        return torch.randn(1, num_codes * dit.repeats, dit.mel_dim, device=dit.device)

    def sound_window(self, codes: Tensor, voice: str, first: int, last: int, noise: Tensor | None) -> Tensor:
        """Two blocks before and one behind are sampled along; half a block of frames leads into the vocoder's."""
        assert noise is not None
        part, (condition, heard) = self._token2wav, self._speaker(voice, codes.device)
        dit, vocoder = part.code2wav_dit_model, part.code2wav_bigvgan_model
        block = dit.block_size // dit.repeats  # codes
        start, end = max(first // block * block - 2 * block, 0), min(last + block, codes.shape[1])
        frames = _sampled(dit, codes[:, start:end], condition, heard, noise[:, start * dit.repeats : end * dit.repeats])
        lead, tail = min(block // 2, first - start), min(block // 2, end - last)
        shown = slice((first - lead - start) * dit.repeats, (last + tail - start) * dit.repeats)
        waveform = vocoder(frames[:, shown].permute(0, 2, 1)).reshape(-1).float()
        each = waveform.shape[0] // (last + tail - first + lead)  # samples of a code
        return waveform[lead * each : waveform.shape[0] - tail * each]

    def _embed(self, token: int, like: Tensor) -> Tensor:
        embed = self.model.thinker.get_input_embeddings()
        embedded: Tensor = embed(torch.tensor([[token]], device=self.model.thinker.device))
        return embedded.to(like.device)

    def _reply(self, thoughts: Iterator[Thought], like: Tensor) -> Iterator[Tensor]:
        """What the talker reads from the reply's second token on, with the end of the text behind it."""
        for thought in thoughts:
            yield (thought.hidden + thought.embeds).to(like.device)
        yield self._embed(self.model.talker.text_eos_token, like)
        yield self._embed(self.model.talker.text_pad_token, like)

    def _speaker(self, voice: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """A voice's embedding, and what is heard of its sound: once, where stock code listens at every step."""
        known = self.model.speaker_map[voice]
        if voice not in self._heard:
            mel = known["ref_mel"].to(device).float()
            with torch.no_grad():
                listen = self.model.token2wav.code2wav_dit_model.input_embed.spk_encoder
                self._heard[voice] = listen(torch.cat([mel, torch.zeros_like(mel)]))[None]
        return known["cond"].to(device).float(), self._heard[voice]


class _Heard(nn.Module):
    """In the place of the DiT's encoder of voices, whose sounds are of any length: hands on what it heard.

    Stock code gives rows [rows, 2, channels], with guidance and without it, and as many zeros behind them.
    """

    def forward(self, heard: Tensor) -> Tensor:
        return torch.cat(heard[: len(heard) // 2].unbind(1))


def _sampled(dit: Any, codes: Tensor, condition: Tensor, heard: Tensor, noise: Tensor) -> Tensor:
    """The stock model's `sample` from a given noise: mel frames [1, frames, channels]."""
    speaker = condition.unsqueeze(1).repeat(1, noise.shape[1], 1)

    def velocity(time: Tensor, frames: Tensor) -> Tensor:
        both = dit(hidden_states=frames, quantized_code=codes, speaker_embedding=speaker, condition_vector=heard,
                   time_step=time, apply_cfg=True)  # fmt: skip
        guided, null = both.chunk(2, dim=0)
        return guided + (guided - null) * _GUIDANCE

    times = torch.linspace(0, 1, _STEPS, device=codes.device, dtype=condition.dtype)
    times = times + _SWAY * (torch.cos(torch.pi / 2 * times) - 1 + times)
    sampled: Tensor = RungeKutta4ODESolver(function=velocity, initial_value=noise).integrate(times)[-1]
    return sampled


class _Codes:
    """A streamer of `generate`: every token but the prompt's and the end goes to a channel, [1, 1] each."""

    def __init__(self, codes: Channel[Tensor], end: list[int]) -> None:
        self._codes, self._end, self._prompt = codes, end, True

    def put(self, tokens: Tensor) -> None:
        if not self._prompt and int(tokens.reshape(-1)[0]) not in self._end:
            self._codes.put(tokens.reshape(1, 1))
        self._prompt = False

    def end(self) -> None:
        pass
