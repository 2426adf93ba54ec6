"""Tiny omni-modal models with random weights in transformers' own classes, saved to directories like any model."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2VLImageProcessor,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

_SPECIAL = {
    "pad": "<|endoftext|>", "start": "<|im_start|>", "end": "<|im_end|>", "image": "<|IMAGE|>", "audio": "<|AUDIO|>",
    "video": "<|VIDEO|>", "vision_bos": "<|vision_bos|>", "vision_eos": "<|vision_eos|>", "audio_bos": "<|audio_bos|>",
    "audio_eos": "<|audio_eos|>", "tts_bos": "<|tts_bos|>", "tts_eos": "<|tts_eos|>", "tts_pad": "<|tts_pad|>",
    "user": "user", "assistant": "assistant", "system": "system",
}  # fmt: skip
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}"
    "{% elif p['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif p['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif p['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MELS = 16
VOICES = ("Chelsie", "Ethan")


def save_qwen2_5_omni(
    folder: Path, width: int = 32, layers: int = 2, talker: int | None = None, sound: int | None = None
) -> Path:
    """A Qwen2.5-Omni, its voices and its processor. `talker` and `sound` are the widths of what comes behind the
    thinker, where they are others."""
    talking, sounding = talker or width, sound or width
    words = _tokenizer()
    ids = {name: words.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    text = {**_text(width, layers), "vocab_size": len(words), "rope_parameters": _rope(width),
            "eos_token_id": ids["end"], "pad_token_id": ids["pad"], "tie_word_embeddings": False}  # fmt: skip
    thinker = {"text_config": text, "audio_config": {**_audio(width), "n_window": 10},
               "vision_config": {**_vision(width), "window_size": 56, "fullatt_block_indexes": [1]},
               "user_token_id": ids["user"], **_media_ids(ids, "token_index")}  # fmt: skip
    speech = {**_text(talking, layers), "vocab_size": 64, "embedding_size": width, "head_dim": talking // 4,
              "rope_parameters": _rope(talking), "tts_text_start_token_id": ids["tts_bos"],
              "tts_text_end_token_id": ids["tts_eos"], "tts_text_pad_token_id": ids["tts_pad"],
              "tts_codec_start_token_id": 61, "tts_codec_end_token_id": 60, "tts_codec_pad_token_id": 59,
              "tts_codec_mask_token_id": 62, **_media_ids(ids, "token_index")}  # fmt: skip
    dit = {"hidden_size": sounding, "num_hidden_layers": max(layers // 2, 2), "num_attention_heads": 2,
           "head_dim": sounding // 2,
           "emb_dim": 16, "num_embeds": 64, "mel_dim": _MELS, "enc_emb_dim": 8, "enc_dim": 8,
           "enc_channels": [16, 16, 16, 16, 48], "enc_attention_channels": 8, "enc_se_channels": 8,
           "block_size": 24, "look_ahead_layers": [1], "look_backward_layers": [0]}  # fmt: skip
    vocoder = {"mel_dim": _MELS, "upsample_initial_channel": sounding, "upsample_rates": [5, 3, 2, 2],
               "upsample_kernel_sizes": [11, 7, 4, 4], "resblock_kernel_sizes": [3],
               "resblock_dilation_sizes": [[1, 3, 5]]}  # fmt: skip
    config = Qwen2_5OmniConfig(thinker_config=thinker, talker_config=speech,
                               token2wav_config={"dit_config": dit, "bigvgan_config": vocoder})  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5OmniForConditionalGeneration(config).eval()
    _sharpen(model.thinker, model.talker)
    _loud(model.token2wav.code2wav_bigvgan_model)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    voices = {
        name: {"bos_token": ids["tts_bos"], "cond": torch.randn(1, 8, generator=generator),
               "ref_mel": torch.randn(1, 40 + 10 * i, _MELS, generator=generator)}
        for i, name in enumerate(VOICES)
    }  # fmt: skip
    torch.save(voices, folder / "spk_dict.pt")
    _save_processor(folder, words, Qwen2_5OmniProcessor)
    return folder


def save_qwen3_omni(folder: Path, width: int = 32, layers: int = 2) -> Path:
    """A Qwen3-Omni with experts and a code predictor, and the processor of its family."""
    words = _tokenizer()
    ids = {name: words.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    sparse = {**_text(width, layers), "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
              "moe_intermediate_size": 16, "rope_parameters": rope}  # fmt: skip
    text = {**sparse, "vocab_size": len(words), "eos_token_id": ids["end"], "pad_token_id": ids["pad"]}
    audio = {**_audio(width), "n_window": 50, "downsample_hidden_size": 16}
    vision = {**_vision(width), "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    thinker = {"text_config": text, "audio_config": audio, "vision_config": vision, "user_token_id": ids["user"],
               **_media_ids(ids, "token_id")}  # fmt: skip
    predictor = {**_text(width, 1), "vocab_size": 64, "head_dim": 8, "num_code_groups": 4}
    talker = {"thinker_hidden_size": width, "num_code_groups": 4, "accept_hidden_layer": 1,
              "text_config": {**sparse, "vocab_size": 1100, "shared_expert_intermediate_size": 16},
              "code_predictor_config": predictor, "codec_eos_token_id": 70, "codec_nothink_id": 71,
              "codec_think_bos_id": 72, "codec_think_eos_id": 73, "codec_pad_id": 74, "codec_bos_id": 75,
              "speaker_id": {"chelsie": 80, "ethan": 81}, "spatial_merge_size": 2,
              **_media_ids(ids, "token_id")}  # fmt: skip
    wav = {"codebook_size": 1100, "hidden_size": 32, "max_position_embeddings": 4096, "num_attention_heads": 4,
           "num_key_value_heads": 4, "sliding_window": 16, "intermediate_size": 64, "num_hidden_layers": 1,
           "num_quantizers": 4, "upsample_rates": [4, 3], "upsampling_ratios": [2, 2], "decoder_dim": 32}  # fmt: skip
    config = Qwen3OmniMoeConfig(thinker_config=thinker, talker_config=talker, code2wav_config=wav,
                                im_start_token_id=ids["start"], im_end_token_id=ids["end"],
                                tts_pad_token_id=ids["tts_pad"], tts_bos_token_id=ids["tts_bos"],
                                tts_eos_token_id=ids["tts_eos"], user_token_id=ids["user"],
                                assistant_token_id=ids["assistant"], system_token_id=ids["system"])  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3OmniMoeForConditionalGeneration(config).eval()
    for name, weights in model.talker.named_parameters():
        if "experts" in name and weights.dim() == 3:  # transformers leaves them as the memory was
            torch.nn.init.normal_(weights, std=0.02)
    _sharpen(model.thinker, model.talker)
    model.thinker.lm_head.weight.data[ids["end"]] = 0  # it has something to say,
    model.talker.codec_head.weight.data[70] = 0  # and says it
    _loud(model.code2wav)
    model.save_pretrained(folder)
    _save_processor(folder, words, Qwen3OmniMoeProcessor)
    return folder


def save_seeing(folder: Path) -> Path:
    """A Qwen2.5-VL, which sees and writes, and its processor."""
    words = _tokenizer()
    ids = {name: words.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**_text(32, 2), "vocab_size": len(words), "rope_parameters": rope, "eos_token_id": ids["end"],
            "pad_token_id": ids["pad"]}  # fmt: skip
    vision = {**_vision(32), "window_size": 56, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=ids["image"],
                              video_token_id=ids["video"], vision_start_token_id=ids["vision_bos"],
                              vision_end_token_id=ids["vision_eos"])  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    _sharpen(model)
    model.save_pretrained(folder)
    _save_processor(folder, words, Qwen2_5_VLProcessor)
    return folder


def save_llava(folder: Path) -> Path:
    """A LLaVA: CLIP before a Llama, one row of pixels a picture."""
    words = _tokenizer()
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16}  # fmt: skip
    text = {**_text(32, 2), "model_type": "llama", "vocab_size": len(words), "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id}  # fmt: skip
    image = words.convert_tokens_to_ids(_SPECIAL["image"])
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=4)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    _sharpen(model)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(pictures, words, patch_size=14, vision_feature_select_strategy="default",
                   num_additional_image_tokens=1, chat_template=_TEMPLATE).save_pretrained(folder)  # fmt: skip
    return folder


def save_smolvlm(folder: Path) -> Path:
    """A SmolVLM: SigLIP before a Llama; a picture is several tiles and the whole, each a row of pixels."""
    words = _tokenizer()
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = {**_text(32, 2), "model_type": "llama", "vocab_size": len(words), "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id}  # fmt: skip
    image = words.convert_tokens_to_ids(_SPECIAL["image"])
    config = SmolVLMConfig(vision_config=vision, text_config=text, image_token_id=image, scale_factor=2,
                           pad_token_id=words.pad_token_id)  # fmt: skip
    torch.manual_seed(0)
    model = SmolVLMForConditionalGeneration(config).eval()
    _sharpen(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}).save_pretrained(folder)
    own = {"processor_class": "SmolVLMProcessor", "image_seq_len": 1}
    (folder / "processor_config.json").write_text(json.dumps(own))
    return folder


def save_hearing(folder: Path) -> Path:
    """A Qwen2-Audio, which hears and writes."""
    words = _tokenizer()
    audio = {**_audio(32), "max_source_positions": 100}
    text = {**_text(32, 2), "model_type": "qwen2", "vocab_size": len(words), "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id}  # fmt: skip
    index = words.convert_tokens_to_ids(_SPECIAL["audio"])
    torch.manual_seed(0)
    config = Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=index)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    _sharpen(model)
    model.save_pretrained(folder)
    ears = WhisperFeatureExtractor(feature_size=_MELS, sampling_rate=16000, chunk_length=2)
    Qwen2AudioProcessor(ears, words, chat_template=_TEMPLATE).save_pretrained(folder)
    return folder


def _text(width: int, layers: int) -> dict[str, Any]:
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}  # fmt: skip


def _rope(width: int) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [1, 1, width // 8 - 2], "rope_theta": 10000.0}


def _audio(width: int) -> dict[str, Any]:
    return {"num_mel_bins": _MELS, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "d_model": 16, "output_dim": width, "max_source_positions": 1500}  # fmt: skip


def _vision(width: int) -> dict[str, Any]:
    return {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": width}  # fmt: skip


def _media_ids(ids: dict[str, int], suffix: str) -> dict[str, int]:
    own = {f"{kind}_{suffix}": ids[kind] for kind in ("audio", "image", "video")}
    return {**own, "audio_start_token_id": ids["audio_bos"], "audio_end_token_id": ids["audio_eos"],
            "vision_start_token_id": ids["vision_bos"], "vision_end_token_id": ids["vision_eos"]}  # fmt: skip


def _sharpen(*parts: torch.nn.Module) -> None:
    """Far from ties between tokens."""
    for part in parts:
        for weights in part.parameters():
            if weights.dim() > 1:
                weights.data.mul_(4)


def _loud(vocoder: torch.nn.Module) -> None:
    """Sound that can be heard: differences of 1e-4 mean something."""
    torch.manual_seed(2)
    for part in vocoder.modules():
        if isinstance(part, (torch.nn.Conv1d, torch.nn.ConvTranspose1d)):
            torch.nn.init.kaiming_uniform_(part.weight, a=1.0)
            if part.out_channels == 1:
                part.weight.data.mul_(0.1)  # below the loudest


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(BPE())
    words.pre_tokenizer, words.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
    special = list(_SPECIAL.values())
    words.train_from_iterator(
        ["a red circle"],
        BpeTrainer(vocab_size=150, initial_alphabet=letters, special_tokens=special, show_progress=False),
    )
    named = {f"{name}_token": _SPECIAL[name] for name in ("image", "audio", "video", "vision_bos", "vision_eos",
                                                          "audio_bos", "audio_eos")}  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=_SPECIAL["end"], pad_token=_SPECIAL["pad"],
                                   extra_special_tokens=named, chat_template=_TEMPLATE)  # fmt: skip


def _save_processor(folder: Path, words: PreTrainedTokenizerFast, processor: type) -> None:
    """Part by part: the whole would ask for torchvision, for its films."""
    words.save_pretrained(folder)
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
    Qwen2VLImageProcessor(patch_size=14, temporal_patch_size=2, merge_size=2, size=size).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=_MELS, sampling_rate=16000, chunk_length=2).save_pretrained(folder / "sound")
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    sounds = json.loads((folder / "sound" / "preprocessor_config.json").read_text())
    both = {**sounds, **pictures, "processor_class": processor.__name__}
    (folder / "preprocessor_config.json").write_text(json.dumps(both))


if __name__ == "__main__":  # python -m tests.stages.omni_models FOLDER [WIDTH LAYERS [TALKER SOUND]]: for benches
    import sys

    save_qwen2_5_omni(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
