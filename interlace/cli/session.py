"""One bulk command from its flags to its exit status: opens the sink and, when there is work, the model."""

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from interlace.bulk.additions import forget, numbered
from interlace.bulk.backends import find_endpoints, open_api_generator
from interlace.bulk.backends.table import BACKENDS
from interlace.bulk.enhance import with_enhancer
from interlace.bulk.input.rows import BadRow, Row, Rows
from interlace.bulk.launch.node import run_node
from interlace.bulk.launch.nodes import Placement, place, xdit_nodes
from interlace.bulk.launch.worker import Work, is_worker, run_worker
from interlace.bulk.matching import by_content
from interlace.bulk.output.disk import why_not_written
from interlace.bulk.output.failures import failed_rows
from interlace.bulk.output.keys import brought
from interlace.bulk.output.remote.folder import RemoteFolder, remote_url
from interlace.bulk.output.sink import FAILURES, SUMMARY, ModelId, Sink, SinkOptions
from interlace.bulk.output.weights import weights_digest
from interlace.bulk.plan import RunOptions, survey
from interlace.bulk.report.export import check_pyarrow
from interlace.bulk.report.outlook import Existing, dry_run
from interlace.bulk.run import run_bulk
from interlace.cli.flags.api import ApiFlags
from interlace.cli.flags.bulk import BulkFlags, OutputFlags
from interlace.cli.flags.shared import SpeedFlags
from interlace.cli.flags.stages import stages_from_flags, stages_name
from interlace.cli.invocation import ARGUMENTS, tell_of_loading
from interlace.cli.rows import check_model_kind, size_door
from interlace.config import EngineConfig
from interlace.engine.group.config import GroupConfig, xdit_degrees
from interlace.errors import InvalidRequestError, StorageError

if TYPE_CHECKING:
    from interlace.bulk.generator import Generator
    from interlace.ray.cluster import Fleet
    from interlace.stages.config import OmniStageConfig


def generate(rows: Rows, flags: BulkFlags, engine: EngineConfig) -> int:
    """Make what `rows` ask for; returns the exit status.

    Raises `InvalidRequestError` for flags or rows that can't be used, `ModelLoadError` for the model.
    """
    url = remote_url(flags.output.output_dir)
    if url is None:
        return _generate(rows, flags, engine)
    flags.check_for_remote(url)
    with RemoteFolder(url) as place:
        local = replace(flags, output=replace(flags.output, output_dir=place.local))
        status = _generate(rows, local, engine, place)
        if flags.select.dry_run:
            return status
        try:
            place.finish()
        except OSError as error:
            raise StorageError(why_not_written(place.local, error)) from error
    sys.stderr.write(f"everything is in {url}\n")
    return status


def _generate(rows: Rows, flags: BulkFlags, engine: EngineConfig, remote: RemoteFolder | None = None) -> int:
    api, stages = _api_flags(flags), stages_of(flags, engine)
    check_model_kind(flags, stages)
    options = _options(rows, flags, engine, api, stages)
    if options.export_parquet:
        check_pyarrow()
    sink_options = sink_options_of(flags.output)
    folder, overwrite = flags.output.output_dir, flags.output.overwrite
    rows = _named(replace(rows, sizes=size_door(flags, stages)), flags, options)
    chosen: Iterable[Row | BadRow] = rows
    if flags.run.retry_failed:
        chosen = failed_rows(rows, folder)
        if not chosen.ids:
            sys.stderr.write(f"nothing to retry: {folder / FAILURES} lists no failed row\n")
            return 0
    if flags.select.dry_run:
        return dry_run(chosen, folder, options, overwrite=overwrite, sink_options=sink_options, sizes=rows.sizes)
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
    if flags.nodes.ray is not None:
        work, placement = _on_ray(work, flags, engine), Placement()
    else:
        placement = _placement(flags, is_service=api is not None)
    try:
        if placement.is_alone:
            return _run_alone(work, remote)
        if remote is not None:
            text = "object stores have no locks: one command writes there; take --ray, or leave out what starts several"
            raise InvalidRequestError(f"{text} processes", "output_dir")
        return run_node(work, placement, [sys.executable, "-m", "interlace", *ARGUMENTS.get()])
    finally:
        if rows.adds:
            _forget_what_is_done(rows, work)


def _run_alone(work: Work, remote: RemoteFolder | None) -> int:
    told: dict[str, Any] = {}
    if remote is not None:
        remote.begin()
        told = {"on_stored": remote.store}
    with Sink(work.folder, overwrite=work.overwrite, options=work.sink_options, **told) as sink:
        return run_bulk(work.rows, sink, work.options, work.open_generator).exit_status


def _placement(flags: BulkFlags, *, is_service: bool) -> Placement:
    """This node among its like, and its processes. Raises `InvalidRequestError`."""
    if flags.nodes.num_replicas is not None:
        raise InvalidRequestError("--num-replicas goes with --ray; here --num-processes starts several", "num_replicas")
    nodes = replace(flags.nodes, num_processes=None) if is_service else flags.nodes
    placement = place(xdit_nodes(nodes, os.environ) if flags.backend == "xdit" else nodes, flags.model.device)
    placement = placement.in_groups(_ranks(flags).world_size)
    for note in placement.notes:
        sys.stderr.write(note + "\n")
    return placement


def _on_ray(work: Work, flags: BulkFlags, engine: EngineConfig) -> Work:
    """The work, to be done by replicas on a cluster, which is joined here. Raises `InvalidRequestError`."""
    from interlace.ray.cluster import connect, fleet, has_room

    flags.check_for_ray()
    connect(flags.nodes.ray or "auto")
    there = fleet(flags.nodes.num_replicas)
    sys.stderr.write(f"Ray: {there}\n")
    if not has_room(there):
        sys.stderr.write("Ray has no room for any of them now (`ray status` says why); they wait for it\n")
    options = replace(
        work.options,
        max_num_seqs=engine.max_num_seqs * there.num_replicas,
        num_writers=max(work.options.num_writers, min(there.num_replicas, os.cpu_count() or 1)),
    )
    return replace(work, options=options, open_generator=lambda: open_enhanced(flags, engine, there))


def _options(
    rows: Rows,
    flags: BulkFlags,
    engine: EngineConfig,
    api: ApiFlags | None,
    stages: "tuple[OmniStageConfig, ...] | None",
) -> RunOptions:
    """What the flags say of a run."""
    model = ModelId(
        model=stages_name(stages) if stages else flags.model.model_name,
        revision=flags.model.revision,
        variant=flags.model.variant,
        torch_dtype=flags.model.torch_dtype,
        model_type=flags.model_type,
        prompt_enhance=flags.enhance.identity(flags.task),
        **_files_of(flags, stages, is_service=api is not None),
    )
    return RunOptions(
        model=model,
        base_seed=flags.run.seed,
        max_num_seqs=engine.max_num_seqs if api is None else api.num_workers,
        grace_s=flags.run.grace_s,
        strict=flags.select.strict,
        max_retries=0 if api else _or(flags.run.max_retries, 2),  # a service's pool tries again by itself
        every_row=not (
            rows.adds or flags.run.retry_failed or flags.select.rows or flags.select.where or flags.select.limit
        ),
        html=flags.output.html,
        export_parquet=flags.output.export_parquet,
        makes=flags.makes,
    )


def _forget_what_is_done(rows: Rows, work: Work) -> None:
    """A command of which all is there, or nothing at all because it could not begin, needs its numbers no more."""
    found = survey(rows, Existing(work.folder, overwrite=False, options=work.sink_options), work.options)
    began = found.num_done or ((work.folder / SUMMARY).exists() and any(failed_rows(rows, work.folder)))
    if not found.num_to_do or not began:
        forget(rows, work.folder)


def _named(rows: Rows, flags: BulkFlags, options: RunOptions) -> Rows:
    """Rows without ids get theirs: by what they say, or, from the command line, numbers that nothing there has."""
    folder = flags.output.output_dir
    if flags.select.match == "content":
        return replace(rows, namer=by_content(folder, options.model, options.base_seed), adds=False)
    if not rows.adds or flags.output.overwrite:
        return rows
    write = not (flags.select.dry_run or is_worker())
    try:
        return numbered(rows, folder, options.model, options.base_seed, write=write)
    except OSError as error:
        raise InvalidRequestError(why_not_written(folder, error), "output_dir") from error


def _api_flags(flags: BulkFlags) -> ApiFlags | None:
    """The service's flags, complete; None where images are made here. Raises `InvalidRequestError`."""
    backend = flags.backend
    if flags.draws_here:
        return None
    if flags.makes != "pictures":
        text = f"the backend {backend!r} makes pictures; films and sounds are made by diffusers (or xdit)"
        raise InvalidRequestError(text, "backend")
    if backend not in BACKENDS:
        known = ", ".join(("diffusers", "xdit", *BACKENDS))
        raise InvalidRequestError(f"the backend {backend!r} is not available; expected one of {known}", "backend")
    if flags.nodes.num_gpus is not None or flags.model.device is not None or flags.speed != SpeedFlags():
        raise InvalidRequestError(
            f"--backend {backend} uses no device here; leave out device and speed flags", "backend"
        )
    api = replace(flags.api, num_processes=flags.nodes.num_processes, max_retries=_or(flags.run.max_retries, 5))
    find_endpoints(backend, api)
    return api


def _files_of(flags: BulkFlags, stages: "tuple[OmniStageConfig, ...] | None", *, is_service: bool) -> dict[str, Any]:
    """What the pictures' keys say of files: the models', and what was brought to them."""
    weights = _weights_of(flags, stages, is_service=is_service)
    return {"weights": weights, **brought(flags.model.model_name, flags.extras)}


def _weights_of(flags: BulkFlags, stages: "tuple[OmniStageConfig, ...] | None", *, is_service: bool) -> str | None:
    own = [] if is_service else [one.model for one in stages] if stages else [flags.model.model_name]
    writer = [] if flags.enhance.is_remote else [flags.enhance.prompt_enhance]
    return weights_digest(name for name in own + writer if name is not None)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def sink_options_of(flags: OutputFlags) -> SinkOptions:
    """Raises `InvalidRequestError` for a combination that can't be."""
    layout, shard_size = flags.output_layout, flags.shard_size
    return SinkOptions(encoding=flags.encoder(), layout=layout, shard_size=shard_size, verify=flags.verify)


def stages_of(flags: BulkFlags, engine: EngineConfig) -> "tuple[OmniStageConfig, ...] | None":
    """The stages that the flags ask for, if any. Raises `InvalidRequestError` for a service's images over stages."""
    if flags.own_stages is not None:
        return flags.own_stages
    if flags.stages.given and flags.backend != "diffusers":
        name = flags.stages.given[0].replace("_", "-")
        raise InvalidRequestError(f"--{name} needs --backend diffusers; got {flags.backend}", "backend")
    load = {**flags.model.set(), **flags.speed.set(), **flags.extras.set()}
    return stages_from_flags(flags.stages, flags.model.model_name, engine=engine, load=load)


def open_enhanced(flags: BulkFlags, engine: EngineConfig, fleet: "Fleet | None" = None) -> "Generator":
    """What makes the images, behind a language model where one rewrites the prompts."""
    name, folder = flags.enhance.prompt_enhance, flags.output.output_dir
    if name is not None and not flags.enhance.is_remote:
        tell_of_loading(name)
    return with_enhancer(
        lambda: open_generator(flags, engine, fleet), flags.enhance, flags.task, folder, flags.model.device
    )


def _ranks(flags: BulkFlags) -> GroupConfig:
    """The ranks that each process is to have: one, but for --backend xdit."""
    return xdit_degrees(os.environ).group if flags.backend == "xdit" else GroupConfig()


def open_generator(flags: BulkFlags, engine: EngineConfig, fleet: "Fleet | None" = None) -> "Generator":
    """What makes the images; loads the model, or those of all stages, here or by a fleet on Ray."""
    from interlace import Omni
    from interlace.bulk.answers import AnswerGenerator
    from interlace.bulk.generator import OmniGenerator
    from interlace.models.loader import load_editor

    api, model = _api_flags(flags), flags.model.model_name
    if api is not None:
        return open_api_generator(flags.backend, model, api)
    stages = stages_of(flags, engine)
    tell_of_loading(" and ".join(one.model for one in stages) if stages else model)
    if flags.own_stages is not None:
        return AnswerGenerator(Omni(stages=stages), speaks=flags.makes == "speech")
    if stages:
        return OmniGenerator(Omni(stages=stages), flags.edit)
    loading = {**flags.model.set(), **flags.speed.set()}
    options = {**asdict(engine), **loading}
    if fleet is not None:
        from interlace.ray.bulk import fleet_generator

        return fleet_generator(model, {**options, **flags.extras.set()}, fleet, flags.edit)
    if (ranks := _ranks(flags)).world_size > 1:
        if flags.edit is not None:
            raise InvalidRequestError("edits run in one process each; leave --backend xdit out", "backend")
        options["parallel"] = ranks
    if flags.edit is not None:
        loading |= {"batch_invariant": engine.batch_invariant, "extras": flags.extras}
        return OmniGenerator(Omni(load_editor(model, flags.edit, **loading), **asdict(engine)), flags.edit)
    return OmniGenerator(Omni(model, **options, **flags.extras.set()))
