"""Films that begin with a picture (Wan 2.1, Wan 2.2, LTX-Video), with their sound (LTX-2), SANA-Video's and Latte's."""

from typing import Any

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    WanImageToVideoPipeline,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from .dit import gemma2
from .family import Family, finish, picture, seeded
from .parts import t5_text, vae
from .tokenizers import causal_tokenizer, t5_tokenizer
from .video import _build, _clips, _ltx, _wan, _wan_transformer


def _wan_i2v(**more: Any) -> Any:
    """Wan 2.1's, which also looks at the picture with CLIP."""
    vision = CLIPVisionConfig(
        hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        intermediate_size=16,
    )  # fmt: skip
    looking = {
        "image_encoder": CLIPVisionModel(vision),
        "image_processor": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
    }
    transformer = _wan_transformer(in_channels=36, image_dim=4, added_kv_proj_dim=24)
    return finish(WanImageToVideoPipeline(**_wan().components | {"transformer": transformer} | looking | more))


def _wan_ti2v() -> Any:
    """Wan 2.2's smaller one: the first frame is a picture, and each token has a timestep of its own."""
    parts = _wan().components | {"transformer": _wan_transformer()}
    return finish(WanImageToVideoPipeline(**parts, expand_timesteps=True))


def _ltx_i2v() -> Any:
    return finish(LTXImageToVideoPipeline(**_ltx().components))


def _gemma() -> Gemma3ForConditionalGeneration:
    text = {
        "vocab_size": 200, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=199,
                     boi_token_index=198, eoi_token_index=197)
    )  # fmt: skip


def _ltx2() -> Any:
    """Pictures and sound from one denoiser."""
    sound = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, in_channels=2, resolution=32,
        latent_channels=2, mid_block_add_attention=False, mel_bins=8,
    )  # fmt: skip
    return finish(
        LTX2Pipeline(
            transformer=LTX2VideoTransformer3DModel(
                in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
                audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
                audio_cross_attention_dim=8, num_layers=2, caption_channels=16, rope_double_precision=False,
                rope_type="split",
            ),
            connectors=LTX2TextConnectors(
                caption_channels=16, text_proj_in_factor=3, video_connector_num_attention_heads=4,
                video_connector_attention_head_dim=4, video_connector_num_layers=1,
                video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=4,
                audio_connector_attention_head_dim=4, audio_connector_num_layers=1,
                audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32,
                rope_double_precision=False, rope_type="split",
            ),
            vae=AutoencoderKLLTX2Video(
                latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
                down_block_types=("LTX2VideoDownBlock3D",), decoder_layers_per_block=(1, 1),
                spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
                decoder_inject_noise=(False, False), downsample_type=("spatiotemporal",),
                upsample_type=("spatiotemporal",),
                upsample_residual=(False,), upsample_factor=(1,), patch_size=1, decoder_causal=False,
            ),
            audio_vae=sound,
            vocoder=LTX2Vocoder(
                in_channels=16, hidden_channels=32, upsample_kernel_sizes=[20, 32], upsample_factors=[10, 16],
                resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=_gemma(),
            tokenizer=causal_tokenizer(side="left"),
        )
    )  # fmt: skip


def _from_pictures(*args: Any, **common: Any) -> list[dict[str, Any]]:
    """Each film begins with a picture of its own."""
    requests = _clips(*args, **common)
    for number, request in enumerate(requests):
        request["image"] = picture(number, (request["width"], request["height"]))
    return requests


def _sana_video() -> Any:
    """Whose call says `frames` for the number of frames."""
    parts = {name: part for name, part in _wan().components.items() if name in ("vae", "scheduler")}
    parts |= {"tokenizer": causal_tokenizer(), "text_encoder": gemma2()}
    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=16, rope_max_seq_len=32,
    )  # fmt: skip
    return finish(SanaVideoPipeline(**parts | {"transformer": transformer}))


def _latte() -> Any:
    """Whose call says `video_length`, and whose films have one length."""
    with seeded():
        return finish(
            LattePipeline(
                tokenizer=t5_tokenizer(),
                text_encoder=t5_text(),
                vae=vae(shift_factor=None),
                transformer=LatteTransformer3DModel(
                    sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3,
                    caption_channels=32, in_channels=4, cross_attention_dim=24, out_channels=8, video_length=4,
                    activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
                    norm_elementwise_affine=False, norm_eps=1e-6, attention_bias=True,
                ),
                scheduler=DDIMScheduler(),
            )
        )  # fmt: skip


def _named_otherwise(name: str, *args: Any, **common: Any) -> list[dict[str, Any]]:
    requests = _clips(*args, **common)
    return [{name if key == "num_frames" else key: value for key, value in one.items()} for one in requests]


_SIZES = ((16, 16), (16, 32))
_ALL = (
    Family("sana-video", _build(_sana_video), lambda: _named_otherwise("frames", (5,), ((32, 32), (32, 64)),
                                                                      use_resolution_binning=False,
                                                                      complex_human_instruction=None)),
    Family("latte", _build(_latte), lambda: _named_otherwise("video_length", (4,), ((16, 16), (16, 32)),
                                                             clean_caption=False, mask_feature=False)),
    Family("wan-i2v", _build(_wan_i2v), lambda: _from_pictures((5,), _SIZES)),
    Family("wan-ti2v", _build(_wan_ti2v), lambda: _from_pictures((5,), _SIZES, max_sequence_length=16)),
    Family("ltx-i2v", _build(_ltx_i2v), lambda: _from_pictures((9,), ((32, 32), (32, 64)), max_sequence_length=16)),
    Family("ltx-2", _build(_ltx2), lambda: _clips((5,), ((32, 32),), max_sequence_length=16, stg_scale=0.0,
                                                  modality_scale=1.0, audio_stg_scale=0.0,
                                                  audio_modality_scale=1.0)),
)  # fmt: skip
FAMILIES = {family.name: family for family in _ALL}
