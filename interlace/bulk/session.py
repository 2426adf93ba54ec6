"""One bulk command from its flags to its exit status: opens the sink and, when there is work, the model."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from interlace.bulk.backends import API_BACKENDS, find_endpoints, open_api_generator
from interlace.bulk.backends.flags import ApiFlags
from interlace.bulk.encoding import Encoding
from interlace.bulk.enhance import with_enhancer
from interlace.bulk.export import check_pyarrow
from interlace.bulk.failures import failed_rows
from interlace.bulk.flags import BulkFlags, OutputFlags
from interlace.bulk.node import run_node
from interlace.bulk.nodes import place
from interlace.bulk.outlook import dry_run
from interlace.bulk.plan import RunOptions
from interlace.bulk.rows import BadRow, Row, Rows
from interlace.bulk.run import run_bulk
from interlace.bulk.sink import FAILURES, ModelId, Sink, SinkOptions
from interlace.bulk.weights import weights_digest
from interlace.bulk.worker import Work, is_worker, run_worker
from interlace.commands.invocation import ARGUMENTS
from interlace.commands.quiet import without_bars
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.flags import SpeedFlags
from interlace.stages.flags import stages_from_flags, stages_name

if TYPE_CHECKING:
    from interlace.bulk.generator import Generator
    from interlace.stages.config import OmniStageConfig


def generate(rows: Rows, flags: BulkFlags, engine: EngineConfig) -> int:
    """Make what `rows` ask for; returns the exit status.

    Raises `InvalidRequestError` for flags or rows that can't be used, `ModelLoadError` for the model.
    """
    api = _api_flags(flags)
    stages = stages_of(flags, engine)
    model = ModelId(
        model=stages_name(stages) if stages else flags.model_name,
        revision=flags.model.revision,
        variant=flags.model.variant,
        torch_dtype=flags.model.torch_dtype,
        model_type=flags.model_type,
        prompt_enhance=flags.enhance.identity(flags.task),
        weights=_weights_of(flags, stages, is_service=api is not None),
    )
    options = RunOptions(
        model=model,
        base_seed=flags.run.seed,
        max_num_seqs=engine.max_num_seqs if api is None else api.num_workers,
        grace_s=flags.run.grace_s,
        strict=flags.select.strict,
        max_retries=0 if api else _or(flags.run.max_retries, 2),  # a service's pool tries again by itself
        every_row=not (flags.run.retry_failed or flags.select.rows or flags.select.where or flags.select.limit),
        html=flags.output.html,
        export_parquet=flags.output.export_parquet,
    )
    if options.export_parquet:
        check_pyarrow()
    sink_options = sink_options_of(flags.output)
    folder, overwrite = flags.output.output_dir, flags.output.overwrite
    chosen: Iterable[Row | BadRow] = rows
    if flags.run.retry_failed:
        chosen = failed_rows(rows, folder)
        if not chosen.ids:
            sys.stderr.write(f"nothing to retry: {folder / FAILURES} lists no failed row\n")
            return 0
    if flags.select.dry_run:
        return dry_run(chosen, folder, options, overwrite=overwrite, sink_options=sink_options)
    work = Work(
        rows=chosen,
        folder=folder,
        options=options,
        sink_options=sink_options,
        overwrite=overwrite,
        open_generator=lambda: open_enhanced(flags, engine),
    )
    if is_worker():
        return run_worker(work)
    nodes = flags.nodes if api is None else replace(flags.nodes, num_processes=None)
    placement = place(nodes, flags.model.device)
    for note in placement.notes:
        sys.stderr.write(note + "\n")
    if not placement.is_alone:
        return run_node(work, placement, [sys.executable, "-m", "interlace", *ARGUMENTS.get()])
    with Sink(folder, overwrite=overwrite, options=sink_options) as sink:
        return run_bulk(chosen, sink, options, work.open_generator).exit_status


def _api_flags(flags: BulkFlags) -> ApiFlags | None:
    """The service's flags, complete; None where images are made here. Raises `InvalidRequestError`."""
    backend = flags.model.backend
    if backend == "diffusers":
        return None
    if backend not in API_BACKENDS:
        known = ", ".join(("diffusers", *API_BACKENDS))
        raise InvalidRequestError(f"the backend {backend!r} is not available; expected one of {known}", "backend")
    if flags.nodes.num_gpus is not None or flags.model.device is not None or flags.speed != SpeedFlags():
        raise InvalidRequestError(
            f"--backend {backend} uses no device here; leave out device and speed flags", "backend"
        )
    api = replace(
        flags.api or ApiFlags(), num_processes=flags.nodes.num_processes, max_retries=_or(flags.run.max_retries, 5)
    )
    find_endpoints(backend, api)
    return api


def _weights_of(flags: BulkFlags, stages: "tuple[OmniStageConfig, ...] | None", *, is_service: bool) -> str | None:
    own = [] if is_service else [one.model for one in stages] if stages else [flags.model_name]
    writer = [] if flags.enhance.is_remote else [flags.enhance.prompt_enhance]
    return weights_digest(name for name in own + writer if name is not None)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def sink_options_of(flags: OutputFlags) -> SinkOptions:
    """Raises `InvalidRequestError` for a combination that can't be."""
    encoding = Encoding(flags.output_format, flags.output_quality)
    layout, shard_size = flags.output_layout, flags.shard_size
    return SinkOptions(encoding=encoding, layout=layout, shard_size=shard_size, verify=flags.verify)


def stages_of(flags: BulkFlags, engine: EngineConfig) -> "tuple[OmniStageConfig, ...] | None":
    """The stages that the flags ask for, if any. Raises `InvalidRequestError` for a service's images over stages."""
    model = flags.model
    if flags.stages.given and model.backend != "diffusers":
        name = flags.stages.given[0].replace("_", "-")
        raise InvalidRequestError(f"--{name} needs --backend diffusers; got {model.backend}", "backend")
    load: dict[str, Any] = {"dtype": model.torch_dtype, "variant": model.variant, "revision": model.revision}
    load |= {"device": model.device, "local_files_only": model.local_files_only or None}
    load["optimizations"] = flags.speed.optimizations() if flags.speed != SpeedFlags() else None
    return stages_from_flags(flags.stages, flags.model_name, engine=engine, load=load)


def open_enhanced(flags: BulkFlags, engine: EngineConfig) -> "Generator":
    """What makes the images, behind a language model where one rewrites the prompts."""
    name, place = flags.enhance.prompt_enhance, flags.output.output_dir
    if name is not None and not flags.enhance.is_remote:
        sys.stderr.write(f"loading {name}\n")
        if not sys.stderr.isatty():
            without_bars()
    return with_enhancer(lambda: open_generator(flags, engine), flags.enhance, flags.task, place, flags.model.device)


def open_generator(flags: BulkFlags, engine: EngineConfig) -> "Generator":
    """What makes the images; loads the model, or those of all stages."""
    from interlace import Omni
    from interlace.bulk.generator import OmniGenerator
    from interlace.models.loader import load_editor

    api = _api_flags(flags)
    if api is not None:
        return open_api_generator(flags.model.backend, flags.model_name, api)
    stages = stages_of(flags, engine)
    sys.stderr.write(f"loading {' and '.join(one.model for one in stages) if stages else flags.model_name}\n")
    if not sys.stderr.isatty():
        without_bars()
    if stages:
        from interlace.stages.generator import StagesGenerator
        from interlace.stages.omni_stages import OmniStages

        return StagesGenerator(OmniStages(stages=stages), flags.edit)
    places = {"device": flags.model.device, "local_files_only": flags.model.local_files_only}
    names = {"dtype": flags.model.torch_dtype, "variant": flags.model.variant, "revision": flags.model.revision}
    optimizations = flags.speed.optimizations()
    if flags.edit is not None:
        edit = flags.edit
        loaded = load_editor(flags.model_name, edit, **places, **names, optimizations=optimizations)
        return OmniGenerator(Omni(loaded, **asdict(engine)), edit)
    return OmniGenerator(Omni(flags.model_name, **places, **names, optimizations=optimizations, **asdict(engine)))
