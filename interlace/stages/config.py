"""What a stage is: which model, how it is run, what becomes its prompt. Knows nothing of torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args

from interlace.checks import check_choice, check_number
from interlace.config import EngineConfig
from interlace.engine.group.config import GroupConfig
from interlace.errors import InvalidRequestError
from interlace.extras import NAMES, split_extras
from interlace.request import ARSamplingParams, SamplingParams
from interlace.stages.language.config import AREngineArgs, RemoteEngineArgs
from interlace.stages.omni.config import OmniEngineArgs

StageType = Literal["ar", "diffusion", "omni"]
OnError = Literal["fail", "user_prompt"]
T = TypeVar("T")

LOAD_OPTIONS = ("dtype", "variant", "revision", "local_files_only", "pipeline_class", "optimizations")
_COMES_AFTER: Mapping[str, StageType] = {
    "text_to_prompt": "ar",
    "hidden_states_to_prompt_embeds": "ar",
    "image_to_image": "diffusion",
}
MODALITIES = ("text", "image", "video", "audio", "hidden_states")


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """What a diffusion stage's requests run with unless they say otherwise, and which scheduler solves them."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None  # a scheduler class of diffusers; None: the model's own
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        SamplingParams(**self.sampling())
        if self.scheduler is not None and not str(self.scheduler).endswith("Scheduler"):
            text = f"scheduler is {self.scheduler!r}; expected a scheduler class of diffusers, such as UniPCMultistep"
            raise InvalidRequestError(f"{text}Scheduler", "scheduler")

    def sampling(self) -> dict[str, Any]:
        """Its sampling parameters that are set, by name."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "scheduler")
        return {name: value for name, value in named if value is not None}


@dataclass(frozen=True, kw_only=True)
class HandoffConfig:
    """How a stage's output becomes the next stage's prompt: a built-in name or `module:function`, and its options.

    `on_error: user_prompt` goes on with the user's own prompt when the stage before has failed.
    """

    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, get_args(OnError))


@dataclass(frozen=True, kw_only=True)
class OmniStageConfig:
    """One stage. Immutable; raises `InvalidRequestError` for what makes no sense."""

    stage_id: int
    stage_type: StageType
    model: str
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ()
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    default_sampling_params: Mapping[str, Any] = field(default_factory=dict)
    dit_config: DiTConfig = field(default_factory=DiTConfig)
    handoff: HandoffConfig | None = None  # None: what fits the two stages' types
    device: str | tuple[str, ...] | None = None  # one, one a replica, or one for each rank of every replica
    replicas: int = 1
    parallel: GroupConfig = field(default_factory=GroupConfig)  # the ranks of one replica
    max_in_flight: int | None = None  # requests that may be at this stage; None: twice its max_num_seqs

    def __post_init__(self) -> None:
        check_number("stage_id", self.stage_id, 0, whole=True)
        check_choice("stage_type", self.stage_type, get_args(StageType))
        if not isinstance(self.model, str) or not self.model:
            raise InvalidRequestError(f"model is {self.model!r}; expected a directory, a hub id or a name", "model")
        check_number("replicas", self.replicas, 1, whole=True, high=1024)
        if self.parallel.world_size > 1 and self.stage_type != "diffusion":
            raise InvalidRequestError("parallel_config is for stages that draw; give this one replicas", "parallel")
        if self.max_in_flight is not None:
            check_number("max_in_flight", self.max_in_flight, 1, whole=True)
        self._check_device()
        for name in ("engine_args", "default_sampling_params"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidRequestError(f"{name} is {getattr(self, name)!r}; expected keys with values", name)
        for name in ("input_modalities", "output_modalities"):
            for one in getattr(self, name):
                check_choice(name, one, MODALITIES)
        config = self.engine_config()
        if isinstance(config, OmniEngineArgs) and self.replicas > 1 and config.parts:
            raise InvalidRequestError(
                f"the stage has {self.replicas} replicas, each the whole model in a process of its own, and places its "
                "parts; expected one of the two: leave replicas out, or parts",
                "replicas",
            )
        self.sampling()

    def engine_config(self) -> EngineConfig | AREngineArgs | RemoteEngineArgs | OmniEngineArgs:
        """The engine's arguments, checked."""
        if self.stage_type == "diffusion":
            _, options = split_extras(self.engine_args)
            own = {name: value for name, value in options.items() if name not in LOAD_OPTIONS}
            return build(EngineConfig, own, "engine_args", also=(*LOAD_OPTIONS, *sorted(NAMES)))
        if self.stage_type == "omni" and self.remote:
            raise InvalidRequestError(
                "an omni-modal model's parts hand on hidden states, and a server hands out none; leave base_url out, "
                "or say stage_type: ar for its text alone",
                "base_url",
            )
        if self.stage_type == "omni":
            return build(OmniEngineArgs, self.engine_args, "engine_args")
        if self.remote:
            return build(RemoteEngineArgs, self.engine_args, "engine_args")
        return build(AREngineArgs, self.engine_args, "engine_args")

    def drawing_config(self) -> EngineConfig:
        """The engine's arguments of a stage that draws."""
        config = self.engine_config()
        assert isinstance(config, EngineConfig)
        return config

    def sampling(self) -> SamplingParams | ARSamplingParams:
        """What requests run with that say nothing else."""
        if self.stage_type != "diffusion":
            return build(ARSamplingParams, self.default_sampling_params, "default_sampling_params")
        own = {**self.dit_config.sampling(), **self.default_sampling_params}
        return build(SamplingParams, own, "default_sampling_params")

    @property
    def remote(self) -> bool:
        """Whether a server runs the model."""
        return "base_url" in self.engine_args

    @property
    def in_processes(self) -> bool:
        """Whether it runs in processes of its own: several replicas, or the ranks of a group."""
        return not self.remote and (self.replicas > 1 or self.parallel.world_size > 1)

    @property
    def limit(self) -> int:
        """How many requests may be at this stage at once."""
        config = self.engine_config()
        each = config.max_concurrency if isinstance(config, RemoteEngineArgs) else config.max_num_seqs
        return self.max_in_flight or 2 * each * self.replicas

    def device_of(self, replica: int) -> str | None:
        return self.device if isinstance(self.device, str) or self.device is None else self.device[replica]

    def _check_device(self) -> None:
        named = self.device if isinstance(self.device, (list, tuple)) else [self.device or "cpu"]
        for one in named:
            if not isinstance(one, str) or not re.fullmatch(r"[a-z]+(:\d+)?", one):
                raise InvalidRequestError(f"device is {one!r}; expected cuda, cuda:1, cpu, ... or a list", "device")
        ranks = self.replicas * self.parallel.world_size
        if isinstance(self.device, (list, tuple)) and len(named) not in (self.replicas, ranks):
            each = ", or one a rank" if ranks > self.replicas else ""
            raise InvalidRequestError(
                f"device names {len(named)} devices for {self.replicas} replicas; expected one, or one a replica{each}",
                "device",
            )


def create_ar_stage_config(
    stage_id: int,
    model_path: str,
    input_modalities: Sequence[str] = ("text",),
    output_modalities: Sequence[str] = ("text",),
    engine_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> OmniStageConfig:
    """A stage that writes: an embedded language model, or a server where `engine_args` has a `base_url`.

    `options` are further fields of `OmniStageConfig`.
    """
    return _create("ar", stage_id, model_path, input_modalities, output_modalities, engine_args, options)


def create_dit_stage_config(
    stage_id: int,
    model_path: str,
    input_modalities: Sequence[str] = ("text",),
    output_modalities: Sequence[str] = ("image",),
    engine_args: Mapping[str, Any] | None = None,
    dit_config: DiTConfig | Mapping[str, Any] | None = None,
    **options: Any,
) -> OmniStageConfig:
    """A stage that draws. `options` are further fields of `OmniStageConfig`."""
    if dit_config is not None:
        options["dit_config"] = dit_config if isinstance(dit_config, DiTConfig) else build(DiTConfig, dit_config, "")
    return _create("diffusion", stage_id, model_path, input_modalities, output_modalities, engine_args, options)


def check_stages(stages: Sequence[OmniStageConfig]) -> tuple[OmniStageConfig, ...]:
    """The stages in the order of their ids. Raises `InvalidRequestError` when they don't make a pipeline; its `param`
    is the place of the stage and the field, such as `stages.1.handoff`."""
    for one in stages:
        if not isinstance(one, OmniStageConfig):
            raise InvalidRequestError(f"a stage is a {type(one).__name__}; expected create_ar_stage_config(...) or "
                                      "create_dit_stage_config(...)", "stages")  # fmt: skip
    places = sorted(range(len(stages)), key=lambda place: stages[place].stage_id)
    ids = [stages[place].stage_id for place in places]
    wrong = next((place for count, place in enumerate(places) if stages[place].stage_id != count), None)
    if wrong is not None or not ids:
        text = f"stage ids are {ids}; expected 0, 1, 2, ... with at least one stage"
        raise InvalidRequestError(text, f"stages.{wrong or 0}.stage_id")
    ordered = [stages[place] for place in places]
    checked: list[OmniStageConfig] = []
    for before, stage, place in zip((None, *ordered), ordered, places, strict=False):
        try:
            checked.append(replace(stage, handoff=_handoff(before, stage)))
        except InvalidRequestError as error:
            raise InvalidRequestError(str(error), f"stages.{place}.handoff") from error
    return tuple(checked)


def build(kind: type[T], values: Mapping[str, object], where: str, also: Sequence[str] = ()) -> T:
    """A dataclass from a mapping; raises `InvalidRequestError` that names an unknown key and its likely meaning."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"{where} is {values!r}; expected keys with values", where)
    known = [f.name for f in fields(kind)] + list(also)  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise InvalidRequestError(f"{where} has an unknown key {name!r}; {hint}", str(name))
    return kind(**values)


def _handoff(before: OmniStageConfig | None, stage: OmniStageConfig) -> HandoffConfig | None:
    """The stage's handoff, by default what fits the types. Raises `InvalidRequestError` for one that never can work."""
    if before is None:
        if stage.handoff is not None:
            raise InvalidRequestError("stage 0 has a handoff; nothing comes before it: put it on a later stage")
        return None
    hands = stage.handoff.function if stage.handoff is not None else ""
    if before.remote and ("hidden_states" in stage.input_modalities or hands == "hidden_states_to_prompt_embeds"):
        raise InvalidRequestError(
            f"stage {stage.stage_id} takes hidden states, and stage {before.stage_id} is on a server, which hands out "
            "none: run its model in this process (no base_url), or hand on text"
        )
    if stage.handoff is None:
        hidden = "hidden_states" in stage.input_modalities
        text = "hidden_states_to_prompt_embeds" if hidden else "text_to_prompt"
        return HandoffConfig(function=text if before.stage_type == "ar" else "image_to_image")
    expected = _COMES_AFTER.get(stage.handoff.function, before.stage_type)
    if expected != before.stage_type:
        raise InvalidRequestError(
            f"handoff {stage.handoff.function} comes after a stage of type {expected}; stage {before.stage_id} is "
            f"{before.stage_type}"
        )
    return stage.handoff


def _create(
    stage_type: StageType,
    stage_id: int,
    model_path: str,
    input_modalities: Sequence[str],
    output_modalities: Sequence[str],
    engine_args: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> OmniStageConfig:
    values = {
        "stage_id": stage_id,
        "stage_type": stage_type,
        "model": str(model_path),
        "input_modalities": tuple(input_modalities),
        "output_modalities": tuple(output_modalities),
        "engine_args": dict(engine_args or {}),
        **options,
    }
    return build(OmniStageConfig, values, "the stage")
