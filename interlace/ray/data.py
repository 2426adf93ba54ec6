"""A step of Ray Data: rows in, the same rows with an image and what made it out. Files and checkpoints are Ray's."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interlace.bulk.generator import OmniGenerator
from interlace.bulk.input.columns import Columns
from interlace.bulk.input.formats import Record
from interlace.bulk.input.rows import BadRow, Job, read_row
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.extras import split_extras
from interlace.media.encode import Encoding
from interlace.models.editing import EditModel, find_edit_model
from interlace.omni import Omni
from interlace.ray.cluster import Fleet, fleet
from interlace.request import Output, SamplingParams
from interlace.stages.config import LOAD_OPTIONS

if TYPE_CHECKING:
    import ray.data

Cells = dict[str, Any]
_LOAD = (*LOAD_OPTIONS, "device")


def generate(
    dataset: "ray.data.Dataset",
    *,
    model: str = "demo",
    task: str = "t2i",
    replicas: int | tuple[int, int] | None = None,
    columns: Mapping[str, str] | None = None,
    sampling_params: SamplingParams | Mapping[str, Any] | None = None,
    seed: int = 0,
    num_cpus: float | None = None,
    output_format: str = "png",
    output_quality: int | None = None,
    **options: Any,
) -> "ray.data.Dataset":
    """The dataset with an image for each row; nothing runs before it is consumed.

    Rows say what rows of `interlace t2i` say (`task="edit"`: of `interlace edit`) in columns of the same names;
    `columns` gives ours by theirs, as in `{"prompt": "caption"}`, and others pass through. `sampling_params` hold for
    rows that say nothing; `seed` is the base of those without a seed, so a row with an id gets the picture that
    `interlace t2i` makes of it. `replicas` is a number of actors, or the least and the most; by default one a GPU, or
    without GPUs one a node. `num_cpus` are an actor's; by default half of what there is for it, since Ray Data
    reads and writes on the others. `options` are those of `Omni`.

    New columns: `image` (the file's bytes), `image_id`, `seed`, `height`, `width`, `parameters` (JSON: all that made
    it), `seconds`, and `error`, empty where there is none. A row that fails has its error and no bytes. A row of
    several images becomes several. Raises `InvalidRequestError`.
    """
    from ray.data import ActorPoolStrategy

    low, high = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    room: Fleet = fleet(high)
    given = sampling_params if isinstance(sampling_params, SamplingParams) else SamplingParams(**sampling_params or {})
    theirs = {ours: (name,) for ours, name in (columns or {}).items()}
    if task not in ("t2i", "edit"):
        raise InvalidRequestError(f"task is {task!r}; expected t2i or edit", "task")
    read = Columns(task="edit" if task == "edit" else "t2i", theirs=theirs, ignore_unknown=True)
    encoding = Encoding(output_format, output_quality)
    _, engine = split_extras({name: value for name, value in options.items() if name not in _LOAD})
    at_once = 2 * EngineConfig(**engine).max_num_seqs  # one batch runs, another is there when it ends
    return dataset.flat_map(
        RowMaker,
        fn_constructor_args=(model, options, read, given, seed, encoding),
        compute=ActorPoolStrategy(min_size=low or room.num_replicas, max_size=room.num_replicas),
        num_cpus=max(room.num_cpus // 2, 1) if num_cpus is None else num_cpus,
        num_gpus=room.num_gpus or None,
        max_concurrency=at_once,
    )


class RowMaker:
    """One model in an actor of Ray Data: it is called with many rows at once, and the engine batches them."""

    def __init__(
        self,
        model: str,
        options: Mapping[str, object],
        columns: Columns,
        defaults: SamplingParams,
        base_seed: int,
        encoding: Encoding,
    ) -> None:
        self._columns, self._defaults = columns, defaults
        self._base_seed, self._encoding = base_seed, encoding
        self._model = model
        self._generator = _open(model, options, columns)
        self._count = itertools.count()

    async def __call__(self, row: Cells) -> AsyncIterator[Cells]:
        """The row with each of its images; with an error where it has none."""
        cells = {name: _plain(cell) for name, cell in row.items()}
        found = read_row(Record("row", cells), _id_of(cells), self._defaults, self._columns)
        if isinstance(found, BadRow):
            yield {**row, **_columns_of(found.id or "", error=found.error)}
            return
        making = [asyncio.create_task(self._make(job)) for job in found.jobs(self._base_seed)]
        try:
            for one in making:
                yield {**row, **await one}
        finally:
            for one in making:
                one.cancel()

    async def _make(self, job: Job) -> Cells:
        named = replace(job, name=f"{job.name}~{next(self._count)}")  # equal rows may be under way at once
        try:
            output = await asyncio.wrap_future(self._generator.submit(named))
        except asyncio.CancelledError:
            self._generator.abort(named)
            raise
        if output.error is not None or not output.images:
            error = str(output.error or "the model made no image") or type(output.error).__name__
            return _columns_of(job.name, seed=job.sampling.seed, error=error)
        return await asyncio.to_thread(self._made, job, output)

    def _made(self, job: Job, output: Output) -> Cells:
        width, height = output.images[0].size
        record = {"prompt": job.prompt, "seed": job.sampling.seed, "model": self._model}
        record |= {**self._generator.resolved(job), "height": height, "width": width}
        told = {name: value for name, value in record.items() if value is not None}
        return _columns_of(
            job.name,
            image=self._encoding.encode(output.images[0], told),
            seed=job.sampling.seed,
            height=height,
            width=width,
            parameters=json.dumps(told, ensure_ascii=False),
            seconds=round(output.metrics.total_s, 4),
        )


def _columns_of(
    image_id: str,
    *,
    image: bytes = b"",
    seed: int | None = None,
    height: int = 0,
    width: int = 0,
    parameters: str = "",
    seconds: float = 0.0,
    error: str = "",
) -> Cells:
    """Ours, all of one type in every row: Arrow takes the type from the first ones."""
    cells: Cells = {"image": image, "image_id": image_id, "seed": -1 if seed is None else seed}
    return {
        **cells,
        "height": height,
        "width": width,
        "parameters": parameters,
        "seconds": seconds,
        "error": error,
    }


def _open(model: str, options: Mapping[str, Any], columns: Columns) -> OmniGenerator:
    edit: EditModel | None = None
    if columns.task == "edit":
        from interlace.models.loader import load_editor

        edit = find_edit_model(model, None)
        extras, others = split_extras(options)
        load = {name: others.pop(name) for name in _LOAD if name in others}
        load["batch_invariant"] = others.get("batch_invariant")
        return OmniGenerator(Omni(load_editor(model, edit, extras=extras, **load), **others), edit)
    return OmniGenerator(Omni(model, **options))


def _id_of(cells: Mapping[str, Any]) -> str:
    """Of a row without an id: the same for equal rows, so that they get equal seeds wherever they are made."""
    return hashlib.sha256(json.dumps(cells, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def _plain(cell: Any) -> Any:
    """A cell as Python has it: Ray's are numpy's."""
    item = getattr(cell, "item", None)
    if item is not None and getattr(cell, "ndim", None) == 0:
        cell = item()
    if hasattr(cell, "tolist") and not isinstance(cell, (bytes, str)):
        cell = cell.tolist()
    return None if isinstance(cell, float) and cell != cell else cell
