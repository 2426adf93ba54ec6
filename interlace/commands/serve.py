"""`interlace serve`: the HTTP server, from flags."""

import logging
import sys
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from socket import socket
from typing import Annotated, Any

from cyclopts import Group, Parameter

from interlace.commands.quiet import without_bars
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.flags import EngineFlags, ModelGroup, SpeedFlags
from interlace.serve.binding import bind
from interlace.serve.settings import ServeSettings
from interlace.stages.config import OmniStageConfig
from interlace.stages.flags import StageFlags, stages_from_flags

ServerGroup = Group("Server", sort_key=2)


@Parameter(name="*", group=ServerGroup)
@dataclass(frozen=True, kw_only=True)
class ServeFlags(ServeSettings):
    """The server's settings as flags."""


def serve(
    model: Annotated[str, Parameter(name="--model-name", alias="--model", group=ModelGroup)] = "demo",
    *,
    omni: Annotated[bool, Parameter(negative=(), group=ModelGroup)] = False,
    edit_model: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    torch_dtype: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    device: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    revision: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    variant: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    local_files_only: Annotated[bool, Parameter(group=ModelGroup, negative=())] = False,
    server: ServeFlags = ServeFlags(),
    engine: EngineFlags = EngineFlags(),  # noqa: B008
    speed: SpeedFlags = SpeedFlags(),  # noqa: B008
    stages: StageFlags = StageFlags(),  # noqa: B008
) -> None:
    """Serve a model over HTTP: OpenAI's Images API, a page for browsers, metrics.

    Prints where it listens on stdout; logs go to stderr. SIGTERM and Ctrl-C finish what is under way.

    ```text
    interlace serve
    interlace serve demo --omni --ar-stage demo-expand --dit-steps 20 --dit-guidance-scale 2.5
    interlace serve black-forest-labs/FLUX.1-dev --port 8000 --max-num-seqs 32 --api-key-file keys.txt
    curl localhost:8000/v1/images/generations -H 'content-type: application/json' -d '{"prompt": "a red circle"}'
    ```

    Parameters
    ----------
    model
        A directory, a hub id, or "demo" for the built-in model.
    omni
        Serve several stages, as --ar-stage, --dit-stage or --deploy-config name them; a plain model is one stage.
        Where the stages are others than the model, its name is what clients may call them all.
    edit_model
        The model for edits; by default what comes with the model, sharing its weights where it can.
    torch_dtype
        float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on a CPU.
    device
        cuda, cuda:1, cpu, ...; by default a GPU where there is one.
    revision
        Branch, tag or commit of a hub model.
    variant
        Which weight files, such as fp16.
    local_files_only
        Don't download anything.
    """
    settings = ServeSettings(**asdict(server))
    listening = bind(settings)
    try:
        from interlace.serve.app import create_app
        from interlace.serve.run import serve as run
    except ImportError as error:
        text = f"the server needs {error.name}, which is not installed; pip install 'interlace[serve]'"
        raise InvalidRequestError(text) from error
    from interlace.async_omni import AsyncOmni
    from interlace.models.loader import load_model
    from interlace.serve.lanes import editing_sibling

    _log_to_stderr()
    without_bars()
    load = partial(
        load_model,
        dtype=torch_dtype,
        device=device,
        local_files_only=local_files_only,
        optimizations=speed.optimizations(),
    )
    places: dict[str, Any] = {"device": device, "dtype": torch_dtype, "revision": revision, "variant": variant}
    places |= {"local_files_only": local_files_only or None}
    places |= {"optimizations": speed.optimizations() if speed != SpeedFlags() else None}
    configs = stages_from_flags(stages, model, engine=engine, load=places)
    if configs is not None:
        if model != "demo" and all(config.model != model for config in configs):  # what clients may call the whole
            settings = replace(settings, model_alias=(*settings.model_alias, model))
        _serve_stages(configs, edit_model, settings, listening)
        return
    drawing = load(model, revision=revision, variant=variant)
    editing = load(edit_model) if edit_model else editing_sibling(drawing)
    options = {field.name: getattr(engine, field.name) for field in fields(EngineConfig)}
    draws = AsyncOmni(drawing, **options)
    edits = AsyncOmni(editing, **options) if editing is not None else None
    try:
        run(create_app(draws, settings, edits), settings, listening)
    finally:
        for one in (draws, edits):
            if one is not None:
                one.omni.close()


def _serve_stages(
    configs: tuple[OmniStageConfig, ...], edit_model: str | None, settings: ServeSettings, listening: socket
) -> None:
    from interlace.async_omni import AsyncOmni
    from interlace.serve.app import create_app
    from interlace.serve.run import serve as run

    if edit_model is not None:
        raise InvalidRequestError("--edit-model goes with a plain model; make editing one of the stages", "edit_model")
    if all(config.stage_type != "diffusion" for config in configs):
        raise InvalidRequestError("none of the stages draws; expected one with stage_type: diffusion", "stages")
    omni = AsyncOmni(stages=configs)
    try:
        run(create_app(omni, settings), settings, listening)
    finally:
        omni.omni.close()


def _log_to_stderr() -> None:
    """The server's own lines as they are: each request's is a JSON object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("interlace.serve", "interlace.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
