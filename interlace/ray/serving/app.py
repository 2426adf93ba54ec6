"""`interlace.ray.app`: today's server over engines that Ray Serve runs, as an application for `serve.run`."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from interlace import __version__
from interlace.async_omni import AsyncOmni
from interlace.errors import InvalidRequestError
from interlace.models.editing import find_edit_model
from interlace.ray.bulk import open_editor, open_here
from interlace.ray.serving.engines import EngineReplica, Opener
from interlace.ray.serving.handle import DeploymentSpec
from interlace.ray.serving.scaling import Autoscaling
from interlace.serve.app import create_app_over
from interlace.serve.jobs.repository import ModelRepository, Offer
from interlace.serve.settings import ServeSettings
from interlace.stages.config import OmniStageConfig
from interlace.stages.flow.link import Link
from interlace.stages.flow.slots import Slots
from interlace.stages.opening import model_in_processes, open_replica
from interlace.stages.pipeline import Pipeline
from interlace.stages.replicas.front import DrawingReplicas

_ENVIRONMENT = {"env_vars": {"TQDM_DISABLE": "1"}}
_AFTER_S = 10.0  # for what is left to do once a drain is over


def app(
    *,
    model: str = "demo",
    models: Sequence[str] = (),
    edit_model: str | None = None,
    replicas: int = 1,
    autoscaling: Autoscaling | Mapping[str, Any] | None = None,
    max_models: int = 2,
    num_cpus: float = 1,
    num_gpus: float | None = None,
    settings: ServeSettings | Mapping[str, Any] | None = None,
    **options: Any,
) -> serve.Application:
    """An application: `serve.run(interlace.ray.app(model="demo", replicas=2))`.

    One ingress is the server of `interlace serve`: jobs, events and files live there. `replicas` engines make the
    pictures, or as many as `autoscaling` (an `Autoscaling`, or its fields) finds necessary; each asks Ray for
    `num_cpus` and `num_gpus` (by default one where the cluster has any). `models` are further ones that draw, by the
    names that requests give as `model`; `edit_model` edits. Each engine holds up to `max_models` models, those that
    were asked for last, and Serve routes by which it has. `settings` are the server's (host and port are Serve's),
    `options` those of `Omni`. Raises `InvalidRequestError`.
    """
    if num_gpus is None:
        num_gpus = 1 if ray.is_initialized() and ray.cluster_resources().get("GPU") else 0
    served = settings if isinstance(settings, ServeSettings) else ServeSettings(**_tuples(settings or {}))
    scaling = autoscaling if isinstance(autoscaling, Autoscaling) or autoscaling is None else Autoscaling(**autoscaling)
    configs, openers = _models([model, *models], edit_model, options)
    engine = configs[model].drawing_config()
    most = scaling.max_replicas if scaling is not None else replicas
    deployment: Any = serve.deployment
    engines = deployment(EngineReplica).options(
        name="Engines",
        ray_actor_options={
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": {"TQDM_DISABLE": "1"}},
        },
        max_ongoing_requests=2 * engine.max_num_seqs,
        graceful_shutdown_timeout_s=served.drain_s + _AFTER_S,
        **({"autoscaling_config": scaling.config()} if scaling is not None else {"num_replicas": replicas}),
    )
    ingress = deployment(serve.ingress()(Ingress)).options(
        name="Ingress",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,  # its own limits refuse with words
        graceful_shutdown_timeout_s=served.drain_s + _AFTER_S,
    )
    return ingress.bind(engines.bind(openers, max_models), configs, edit_model, most, served)


def build(args: dict[str, Any]) -> serve.Application:
    """For `import_path: interlace.ray.serving.app:build` in a Serve config file; `args` are those of `app`."""
    return app(**args)


class Ingress:
    """The server, in Serve's replica. Its engines are elsewhere; models here have no weights."""

    async def __init__(  # type: ignore[misc]
        self,
        engines: object,
        configs: Mapping[str, OmniStageConfig],
        edit_model: str | None,
        most_replicas: int,
        settings: ServeSettings,
    ) -> None:
        self._settings, self._omnis = settings, list[AsyncOmni]()
        prefix = f"{secrets.token_hex(3)}-"

        def opened(*names: str) -> tuple[AsyncOmni, AsyncOmni | None]:
            draws, *edits = [_omni_over(engines, name, configs[name], most_replicas, prefix) for name in names]
            self._omnis += [draws, *edits]
            return draws, next(iter(edits), None)

        first, *others = [name for name in configs if name != edit_model]
        beside = () if edit_model is None else (edit_model,)
        offers = [
            Offer(first, partial(opened, first, *beside)),
            *(Offer(name, partial(opened, name)) for name in others),
        ]
        self._models = ModelRepository(offers, settings)
        await self._models.open_first()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app_over(self._models, self._settings)

    async def __del__(self) -> None:
        for omni in getattr(self, "_omnis", ()):
            await omni.close()


def _models(
    draw: Sequence[str], edit_model: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, OmniStageConfig], dict[str, Opener]]:
    """What each of the models is, by name, and what opens it in a replica."""
    names = [*draw, *([edit_model] if edit_model is not None else [])]
    if len(set(names)) < len(names):
        raise InvalidRequestError(f"models are {', '.join(names)}; expected each once", "models")
    configs = {model: _config(model, options) for model in draw}
    plain: dict[str, Opener] = {model: partial(open_replica, config) for model, config in configs.items()}
    if edit_model is not None:
        own = {name: value for name, value in options.items() if name not in ("revision", "variant")}
        configs[edit_model] = _config(edit_model, own)
        plain[edit_model] = partial(open_editor, configs[edit_model], find_edit_model(edit_model))
    return configs, {name: partial(open_here, __version__, opener) for name, opener in plain.items()}


def _omni_over(engines: Any, name: str, config: OmniStageConfig, most_replicas: int, prefix: str) -> AsyncOmni:
    """One model of a deployment, seen as an `Omni`."""
    drawing = config.drawing_config()
    spec = DeploymentSpec(opener=_nothing, name=name, handle=engines, model=name, prefix=prefix)
    stage = DrawingReplicas([spec], replace(drawing, max_num_seqs=drawing.max_num_seqs * most_replicas))
    return AsyncOmni(Pipeline([Link(config, stage, None, Slots(None))]))


def _nothing() -> None:
    """Serve opens the engines."""


def _config(model: str, options: Mapping[str, Any]) -> OmniStageConfig:
    if "parallel" in options or "stages" in options:
        raise InvalidRequestError("the application serves plain models: leave parallel and stages out", "stages")
    own = {name: value for name, value in options.items() if name != "device"}
    return model_in_processes(model, own, options.get("device"), 1, None)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of a YAML file as the settings have them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
