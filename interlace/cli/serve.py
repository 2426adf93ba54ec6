"""`interlace serve`: the HTTP server, from flags."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from interlace.cli.flags.devices import GroupFlags, ReplicaFlags
from interlace.cli.flags.model import ModelFlags
from interlace.cli.flags.several import SeveralFlags
from interlace.cli.flags.shared import EngineFlags, ExtraFlags, ModelGroup, SpeedFlags
from interlace.cli.flags.stages import StageFlags, stages_from_flags
from interlace.cli.invocation import without_bars
from interlace.config import EngineConfig
from interlace.engine.group.config import launched_rank
from interlace.engine.visible import accelerators
from interlace.errors import InvalidRequestError
from interlace.serve.http.binding import bind
from interlace.serve.logs import log_to_stderr
from interlace.serve.settings import ServeSettings
from interlace.stages.config import OmniStageConfig
from interlace.stages.omni.families import omni_stages
from interlace.units import parse_bytes

ServerGroup = Group("Server", sort_key=2)
if TYPE_CHECKING:
    from fastapi import FastAPI

    from interlace.async_omni import AsyncOmni
    from interlace.engine.group.config import GroupConfig
    from interlace.models.films.lengths import Makes

logger = logging.getLogger("interlace.serve")


@Parameter(name="*", group=ServerGroup)
@dataclass(frozen=True, kw_only=True)
class ServerFlags(ServeSettings):
    """The server's settings as flags."""

    stream_keep_alive_s: Annotated[float, Parameter(alias="--keep-alive-s")] = ServeSettings.stream_keep_alive_s
    """Longest silence of a stream in seconds: when nothing else was sent a comment is."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """Everything that `serve` may be told."""

    model: ModelFlags = ModelFlags()
    omni: Annotated[bool, Parameter(negative=(), group=ModelGroup)] = False
    """Serve an omni-modal model (Qwen2.5-Omni, Qwen3-Omni), or the stages of --ar-stage, --dit-stage, --deploy-config.
    Of stages without the model, its name is what clients may call them all."""
    edit_model: Annotated[str | None, Parameter(group=ModelGroup)] = None
    """The model for edits; by default what comes with the model, sharing its weights where it can."""
    several: SeveralFlags = SeveralFlags()
    server: ServerFlags = ServerFlags()
    engine: EngineFlags = EngineFlags()
    extras: ExtraFlags = ExtraFlags()
    speed: SpeedFlags = SpeedFlags()
    replicas: ReplicaFlags = ReplicaFlags()
    group: GroupFlags = GroupFlags()
    stages: StageFlags = StageFlags()

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.model_name

    def loading(self) -> dict[str, object]:
        """How models are to be loaded, as stages and processes take it: what is not left to defaults."""
        return {**self.model.set(), **self.speed.set(), **self.extras.set()}

    def engine_options(self) -> dict[str, object]:
        """As `Omni` takes them."""
        return {field.name: getattr(self.engine, field.name) for field in fields(EngineConfig)}


def serve(*models: Annotated[str, Parameter(group=ModelGroup)], flags: ServeFlags = ServeFlags()) -> None:
    """Serve one model or several over HTTP: OpenAI's Images API, a page for browsers, metrics.

    Prints where it listens on stdout; logs go to stderr. SIGTERM and Ctrl-C finish what is under way.

    ```text
    interlace serve
    interlace serve demo --omni --ar-stage demo-expand --dit-steps 20 --dit-guidance-scale 2.5
    interlace serve demo ./my-sdxl --max-loaded-models 1
    interlace serve black-forest-labs/FLUX.1-dev --port 8000 --max-num-seqs 32 --api-key-file keys.txt
    curl localhost:8000/v1/images/generations -H 'content-type: application/json' -d '{"prompt": "a red circle"}'
    ```

    Parameters
    ----------
    models
        As --model-name, which may also be given several times; of several, a request's `model` chooses, and without one
        the first that makes what is asked for: pictures, films or sound.
    """
    each = flags.several.each(models, flags)
    flags = each[0]
    ranks = flags.group.config()
    num_replicas = flags.replicas.count(ranks, flags.name)
    in_processes = ranks.world_size > 1 or num_replicas > 1 or flags.replicas.num_gpus is not None
    if (launched := launched_rank(os.environ)) is not None and launched.rank > 0:
        _in_processes(flags, num_replicas, ranks)  # follows the first process of torchrun, and ends with it
        return
    settings = ServeSettings(**asdict(flags.server))
    listening = bind(settings)
    _check_installed()
    log_to_stderr(settings.log_format, settings.log_level)
    _warn(settings)
    without_bars()
    if len(each) > 1:
        if in_processes or flags.stages.given or flags.omni:
            text = "several models are served from one process, each alone: leave out replicas, ranks, stages, --omni"
            raise InvalidRequestError(text, "models")
        _serve_several(each, settings, listening)
        return
    configs = stages_from_flags(flags.stages, flags.name, engine=flags.engine, load=flags.loading())
    configs = configs or omni_stages(flags.name, flags.loading(), flags.engine.max_num_seqs, look=flags.omni)
    if configs is not None:
        if in_processes:
            raise InvalidRequestError("replicas and ranks of stages are said in the deploy file, of each", "replicas")
        _serve_stages(configs, flags, settings, listening)
        return
    start = monotonic()
    logger.info("loading %s", flags.name)
    draws, edits = _in_processes(flags, num_replicas, ranks) if in_processes else _here(flags)
    logger.info("loaded %s in %.1f s", flags.name, monotonic() - start)
    _run(_pictures, [draws] if edits is None else [draws, edits], settings, listening)


def _check_installed() -> None:
    """Raises `InvalidRequestError` where the server's packages are not installed."""
    try:
        import interlace.serve.app
        import interlace.serve.http.run  # noqa: F401
    except ImportError as error:
        text = f"the server needs {error.name}, which is not installed; pip install 'interlace[serve]'"
        raise InvalidRequestError(text) from error


def _in_processes(flags: ServeFlags, num_replicas: int, ranks: "GroupConfig") -> "tuple[AsyncOmni, AsyncOmni | None]":
    """What draws and what edits, each as replicas of its model in processes; a model that does both is opened twice."""
    from interlace.async_omni import AsyncOmni
    from interlace.serve.jobs.models import as_sibling, editing_pipeline

    options = {**flags.engine_options(), **flags.model.set(), **flags.speed.set(), "replicas": num_replicas}
    options["parallel"] = ranks
    if flags.replicas.num_gpus:
        options.setdefault("device", accelerators(os.environ).kind)
    own = {name: options.pop(name, None) for name in ("revision", "variant")}
    draws = AsyncOmni(flags.name, **options, **own, **flags.extras.set())
    if flags.edit_model:
        return draws, AsyncOmni(flags.edit_model, **options)
    wanted = editing_pipeline(draws.omni.model)
    if wanted is None or ranks.world_size > 1:
        return draws, None
    return draws, as_sibling(AsyncOmni(flags.name, **{**options, **own, "pipeline_class": wanted}))


def _here(flags: ServeFlags) -> "tuple[AsyncOmni, AsyncOmni | None]":
    """What draws and what edits, in this process; both with one set of weights where a model does both."""
    from interlace.async_omni import AsyncOmni
    from interlace.models.loader import LoadedModel, load_model
    from interlace.models.optimize import chosen
    from interlace.serve.jobs.models import editing_sibling, editor_of

    engine = flags.engine_options()
    options: dict[str, Any] = {**flags.model.set(), **flags.speed.set()}
    invariant = engine.get("batch_invariant")
    options["optimizations"] = chosen(options.get("optimizations"), batch_invariant=invariant)
    own = {name: options.pop(name, None) for name in ("revision", "variant")}
    drawing = load_model(flags.name, **options, **own, extras=flags.extras)
    editing: LoadedModel | None
    if flags.edit_model:
        load = partial(load_model, **options)
        editing = editor_of(flags.edit_model, load, local_files_only=flags.model.local_files_only)
    else:
        editing = editing_sibling(drawing)
    return AsyncOmni(drawing, **engine), None if editing is None else AsyncOmni(editing, **engine)


def _serve_several(each: "Sequence[ServeFlags]", settings: ServeSettings, listening: socket) -> None:
    """Models that are loaded when they are asked for."""
    from interlace.models.places import weights_on_disk
    from interlace.serve.app import create_app_over
    from interlace.serve.http.run import serve as run
    from interlace.serve.jobs.repository import ModelRepository, Offer

    names = [one.name for one in each]
    if len(set(names)) < len(names):
        raise InvalidRequestError(f"models are {', '.join(names)}; expected each once", "models")
    first = each[0]
    budget = first.engine.memory_budget
    offers = [Offer(one.name, partial(_here, one), weights_on_disk(one.name), _makes(one)) for one in each]
    models = ModelRepository(
        offers,
        settings,
        max_loaded=first.several.max_loaded_models,
        budget=None if budget is None else parse_bytes("memory_budget", budget),
    )
    try:
        run(create_app_over(models, settings), settings, listening)
    finally:
        models.close()


def _makes(flags: ServeFlags) -> "Makes":
    """What a model makes, as far as its small files say; else pictures, until it is loaded."""
    from interlace.models.films.kind import kind_of

    only_local = flags.model.local_files_only
    kind = kind_of(flags.name, revision=flags.model.revision, local_files_only=only_local)
    return "pictures" if kind is None else kind.makes


def _serve_stages(
    configs: tuple[OmniStageConfig, ...], flags: ServeFlags, settings: ServeSettings, listening: socket
) -> None:
    """Several models in a row, or one that speaks. Raises `InvalidRequestError` where none of them draws."""
    from interlace.async_omni import AsyncOmni

    if flags.name != "demo" and all(config.model != flags.name for config in configs):  # what clients may call them all
        settings = replace(settings, model_alias=(*settings.model_alias, flags.name))
    if flags.edit_model is not None:
        raise InvalidRequestError("--edit-model goes with a plain model; make editing one of the stages", "edit_model")
    speaks = len(configs) == 1 and configs[0].stage_type == "omni"
    if not speaks and all(config.stage_type != "diffusion" for config in configs):
        raise InvalidRequestError("none of the stages draws; expected one with stage_type: diffusion", "stages")
    logger.info("loading %s", ", ".join(config.model for config in configs))
    _run(_speech if speaks else _pictures, [AsyncOmni(stages=configs)], settings, listening)


def _run(
    make_app: "Callable[[Sequence[AsyncOmni], ServeSettings], FastAPI]",
    omnis: "Sequence[AsyncOmni]",
    settings: ServeSettings,
    listening: socket,
) -> None:
    """Until it is told to stop; the models are closed then."""
    from interlace.serve.http.run import serve as run

    try:
        run(make_app(omnis, settings), settings, listening)
    finally:
        for one in omnis:
            one.omni.close()


def _pictures(omnis: "Sequence[AsyncOmni]", settings: ServeSettings) -> "FastAPI":
    from interlace.serve.app import create_app

    return create_app(omnis[0], settings, *omnis[1:])


def _speech(omnis: "Sequence[AsyncOmni]", settings: ServeSettings) -> "FastAPI":
    from interlace.serve.speaking.app import create_speaking_app

    return create_speaking_app(omnis[0], settings)


def _warn(settings: ServeSettings) -> None:
    """Of what an operator would want to know before strangers find out."""
    if settings.host in ("0.0.0.0", "::", "") and not (settings.api_key or settings.api_key_file):
        text = "listening on every interface without keys: whoever reaches this machine may use it; add --api-key KEY"
        logger.warning("%s, or --host 127.0.0.1", text)
