"""The flags that make several stages of one command, and the stages that they make."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.stages.config import OmniStageConfig, check_stages, create_ar_stage_config, create_dit_stage_config
from interlace.stages.deploy import load_deploy_config

StagesGroup = Group("Stages", sort_key=7, help="A language model writes prompts, then a diffusion model draws them.")


@Parameter(name="*", group=StagesGroup)
@dataclass(frozen=True, kw_only=True)
class StageFlags:
    """Which models work one after the other."""

    deploy_config: Path | None = None
    """A YAML file with the stages (`stage_args:`); in place of the flags below."""
    ar_stage: str | None = None
    """A language model that writes the prompts: a directory, a hub id, demo-expand, or a name on the server at
    --ar-base-url."""
    dit_stage: str | None = None
    """The diffusion model that draws them; by default the command's model."""
    dit_steps: int | None = None
    """Denoising steps of the diffusion stage."""
    dit_guidance_scale: float | None = None
    """Guidance of the diffusion stage."""
    ar_base_url: str | None = None
    """A language model server that speaks OpenAI's API, such as http://localhost:8001/v1."""
    ar_input_modalities: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative=())] = None
    """What is sent to that server: text, image, audio, video; by default text alone."""
    ar_max_tokens: int | None = None
    """Longest text of the language model, in tokens."""
    ar_temperature: float | None = None
    """0 takes the likeliest token always; by default what the model prefers."""
    ar_system_prompt: str | None = None
    """What the language model is told before every prompt."""
    ar_prompt_template: str | None = None
    """How it is asked, with {prompt} in the prompt's place."""

    @property
    def given(self) -> list[str]:
        """The names of the flags that were used."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]


def stages_from_flags(
    flags: StageFlags,
    model_name: str,
    *,
    engine: EngineConfig | None = None,
    load: dict[str, object] | None = None,
) -> tuple[OmniStageConfig, ...] | None:
    """The stages that were asked for; None where none were, so that `model_name` works alone.

    `engine` and `load` (dtype, variant, ...; device) hold for the diffusion stages; what a deploy file says itself
    wins. Raises `InvalidRequestError` for flags that don't go together.
    """
    if not flags.given:
        return None
    own = _changed(engine) | {name: value for name, value in (load or {}).items() if value is not None}
    device = own.pop("device", None)
    if flags.deploy_config is not None:
        others = [name for name in flags.given if name != "deploy_config"]
        if others:
            raise InvalidRequestError(
                f"--{others[0].replace('_', '-')} and --deploy-config are given; say it in the file", others[0]
            )
        return tuple(_with_defaults(one, own, device) for one in load_deploy_config(flags.deploy_config, model_name))
    if flags.ar_stage is None:
        for name in flags.given:
            if name.startswith("ar_"):
                raise InvalidRequestError(f"--{name.replace('_', '-')} needs --ar-stage MODEL", name)
    dit_config = {"num_inference_steps": flags.dit_steps, "guidance_scale": flags.dit_guidance_scale}
    draw = create_dit_stage_config(
        0 if flags.ar_stage is None else 1,
        flags.dit_stage or model_name,
        engine_args=own,
        dit_config=dit_config,
        device=device,
    )
    return check_stages([draw] if flags.ar_stage is None else [_writer(flags, flags.ar_stage, device), draw])


def stages_name(stages: Sequence[OmniStageConfig]) -> str:
    """What a manifest calls them: their models, and a digest of every setting that can change a picture."""
    harmless = {"max_num_seqs", "kv_cache_gib", "max_concurrency", "max_retries", "request_timeout_s"}
    settings = []
    for one in stages:
        kept = {name: value for name, value in one.engine_args.items() if name not in harmless}
        settings.append(replace(one, engine_args=kept, device=None, replicas=1, max_in_flight=None))
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    return f"{' -> '.join(one.model for one in stages)} ({digest})"


def _writer(flags: StageFlags, model: str, device: str | None) -> OmniStageConfig:
    args = {
        "base_url": flags.ar_base_url,
        "system_prompt": flags.ar_system_prompt,
        "prompt_template": flags.ar_prompt_template,
    }
    takes = {"input_modalities": flags.ar_input_modalities} if flags.ar_input_modalities else {}
    sampling = {"max_tokens": flags.ar_max_tokens, "temperature": flags.ar_temperature}
    return create_ar_stage_config(
        0,
        model,
        engine_args={name: value for name, value in args.items() if value is not None},
        default_sampling_params={name: value for name, value in sampling.items() if value is not None},
        device=device,
        **takes,
    )


def _with_defaults(stage: OmniStageConfig, own: dict[str, Any], device: str | None) -> OmniStageConfig:
    if stage.stage_type != "diffusion":
        return stage
    return replace(stage, engine_args={**own, **stage.engine_args}, device=stage.device or device)


def _changed(engine: EngineConfig | None) -> dict[str, Any]:
    """The engine's settings that are not the defaults."""
    if engine is None:
        return {}
    named = ((f.name, getattr(engine, f.name), f.default) for f in fields(EngineConfig))
    return {name: value for name, value, default in named if value != default}
