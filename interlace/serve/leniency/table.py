"""The table of fields that programs send and that are none of ours. A new one is one line here.

`docs/server.md` is generated from it. Fields that we honour are the pydantic models of the routes.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A field that other software sends.

    One that would change the picture (`draws`) is refused when it asks for something; any other is ignored, with a
    warning. Values in `neutral` ask for nothing, as do null, "" and empty lists and objects.
    """

    name: str
    reason: str
    neutral: tuple[object, ...] = ()
    draws: bool = False


_TOKENS = "samples a language model's tokens, and no language model takes it here"
_TOOLS = "this server calls no tools or functions"
_STORE = "this server stores no conversations and no labels of requests"
_THINKING = "models here do not reason in words before they draw"
_ROUTING = "there is no routing between providers here"
_TEXT = "the text beside a picture has no options here"
_MACHINE = "set by the server's flags, not by a request"
_FRAMES = "of animated pictures; a video model makes those with /v1/videos"
_PROFILE = "measurements are at /metrics and in `timings`"
_CHAT_APP = "for chat applications; it has no meaning here"
_UPSCALE = "there is no upscaler here; ask for the size that you want"


def _ignored(reason: str, *names: str, **neutral: tuple[object, ...]) -> list[Known]:
    """`names` have no neutral values of their own, those in `neutral` do."""
    return [Known(name, reason) for name in names] + [Known(name, reason, values) for name, values in neutral.items()]


def _refused(reason: str, **neutral: tuple[object, ...]) -> list[Known]:
    return [Known(name, reason, values, draws=True) for name, values in neutral.items()]


_ROWS: list[Iterable[Known]] = [
    # OpenAI's Images API
    _ignored("models here have no styles; describe the style in the prompt", style=("auto",)),
    _ignored("use strength, where a model takes it", input_fidelity=("auto",)),
    _ignored("use quality or num_inference_steps; models here plan nothing beforehand", complexity=("auto",)),
    _ignored(_FRAMES, "frame_duration_ms", "fps", frame_count=(1,)),
    _refused(_FRAMES, num_frames=(0, 1), seconds=()),
    _ignored("SVG is not made here; use png, webp or jpeg", "svg"),
    _refused("models here read no markup; use mask, or say it in the prompt", markup=(False,)),
    # OpenAI's chat completions and responses
    _ignored(_TOKENS, "stop", "min_tokens", "top_logprobs", "logit_bias", "prediction", "best_of",
             temperature=(1,), top_p=(1,), top_k=(0, -1), min_p=(0,), top_a=(0,), typical_p=(1,), max_tokens=(),
             max_completion_tokens=(), max_new_tokens=(), max_output_tokens=(), presence_penalty=(0,),
             frequency_penalty=(0,), repetition_penalty=(1,), length_penalty=(1,), logprobs=(False,), echo=(False,),
             ignore_eos=(False,), use_beam_search=(False,), skip_special_tokens=(True,)),
    _ignored(_TOOLS, "functions", "web_search_options", "plugins", tools=(), tool_choice=("auto", "none"),
             function_call=("auto", "none"), parallel_tool_calls=(True, False), max_tool_calls=()),
    _ignored(_STORE, "metadata", "prompt_cache_key", "prompt_cache_retention", "conversation", "session_id",
             "store"),
    _ignored(_THINKING, "reasoning_effort", "reasoning", "thinking", "thinking_budget", "enable_thinking",
             "reasoning_format", "reasoning_split", include_reasoning=(False,)),
    _ignored(_TEXT, "verbosity", "text", "chat_template_kwargs", "add_generation_prompt", "include", "truncation",
             "audio", "context_management", "stream_options", response_format=({"type": "text"},)),
    _ignored(_ROUTING, "provider", "models", "route", "transforms", "service_tier", "fallbacks", "mock_response",
             "usage", "extra_headers", "extra_query", "timeout", "num_retries"),
    _ignored(_CHAT_APP, "chat_id", "message_id", "features", "variables", "background_tasks", "files", "filter_ids",
             "keep_alive", "options", "id", "cache_salt"),
    # vLLM-Omni's and SGLang's
    _ignored("each request has its own generator on the CPU: equal seeds give equal pictures", "generator_device"),
    _ignored(_MACHINE, "cache_backend", "cache_config", "attention_backend", "num_gpus", "dtype",
             vae_use_slicing=(False,), vae_use_tiling=(False,), enable_teacache=(False,), enable_cache=(False,),
             ulysses_degree=(1,), ring_degree=(1,), cfg_parallel=(False,)),
    _ignored("say it in the prompt; no task can be chosen here", "bot_task", "sys_type", use_system_prompt=(False,)),
    _ignored("a benchmark's own measure; use timeout for a limit", "slo_ms"),
    _ignored(_PROFILE, "perf_dump_path", profile=(False,), return_stats=(False,), debug=(False,), rollout=(False,),
             return_trajectory=(False,), return_trajectory_latents=(False,), num_profiled_timesteps=()),
    _ignored("results come in the answer; nothing is written on the server", "output_path", "output_file_name",
             "filename", save_output=(True, False), return_file_paths_only=(True, False)),
    _ignored(_UPSCALE, upscaling_scale=(1,)),
    _refused(_UPSCALE, enable_upscaling=(False,), enable_frame_interpolation=(False,)),
    _refused("describe it in the prompt; no second prompt is read here", system_prompt=()),
    _refused("this model has one denoiser and one guidance", guidance_scale_2=(0, 1), boundary_ratio=(), flow_shift=(),
             guidance_rescale=(0,)),
    _refused("this model makes no sound", generate_sound=(False,)),
    _refused("layers are not made here", layers=(0, 1)),
    # Others': Together, Fireworks, Stability, A1111
    _ignored("pictures are not checked here", "safety_checker", "safety_tolerance", "enable_safety_checker",
             "disable_safety_checker"),
    _refused("name it with sampler", scheduler=("default", "auto")),
    _ignored("prompts are used as they are written", prompt_upsampling=(False,), enhance_prompt=(False,),
             prompt_enhance=(False,), magic_prompt=(False,)),
    _ignored("pictures carry no watermark", watermark=(False,), logo_info=()),
    _refused("use POST /v1/images/edits", image=(), image_url=(), init_image=(), mask=(), images=(), mask_url=()),
    _refused("put it beside the ControlNet's name, into controlnet", control_image=()),
    _refused("prompt weights are not read; write the prompt in words", prompt_embeds=()),
]  # fmt: skip

KNOWN: dict[str, Known] = {known.name: known for row in _ROWS for known in row}

# Other software's names of fields that we have.
RENAMED: dict[str, str] = {
    "num_outputs_per_prompt": "n",
    "num_images_per_prompt": "n",
    "mask_image": "mask",
    "url": "image",
    "input_references": "images",
    "image_array": "images",
    "sampler_name": "sampler",
    "image_reference": "input_reference",
    "reference_image": "input_reference",
    "audio_length": "seconds",
}

# Values of our own fields that ask for nothing, beside null, "" and empty lists and objects.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "seed": (-1,),
    "partial_images": (0,),
    "lora": (False, [], {}),
    "sampler": ("default", "auto"),
    "hold_guidance_after": (1,),
    "top_k": (-1,),
    "aspect_ratio": ("auto",),
}

# Fields of which "" and [] say something: that what is needed is missing.
NEEDED = frozenset({"prompt", "prompts", "negative_prompt", "messages"})

# What people write for a field of ours; offered when the field is refused.
MEANT: dict[str, str] = {
    **dict.fromkeys(("steps", "num_steps", "sampling_steps", "inference_steps", "ddim_steps"), "num_inference_steps"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance", "scale", "distilled_cfg_scale"), "guidance_scale"),
    **dict.fromkeys(("negative", "neg_prompt", "negative_text"), "negative_prompt"),
    **dict.fromkeys(("num_images", "batch_size", "count", "num", "samples", "num_samples", "n_iter"), "n"),
    **dict.fromkeys(("image_size", "resolution", "dimensions", "sz"), "size"),
    **dict.fromkeys(("format", "image_format", "file_type", "mime_type"), "output_format"),
    **dict.fromkeys(("denoising_strength", "denoise", "image_strength"), "strength"),
    **dict.fromkeys(("random_seed", "noise_seed"), "seed"),
    **dict.fromkeys(("timeout_ms", "deadline"), "timeout_s"),
    **dict.fromkeys(("loras", "lora_path", "adapters"), "lora"),
    **dict.fromkeys(("run_async", "background_job"), "async"),
    **dict.fromkeys(("duration", "length"), "seconds"),
    **dict.fromkeys(("text_prompt", "query", "input", "caption", "inputs"), "prompt"),
}
