"""From flags to rows: where the input is, which of its rows are used and what its columns are called."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlace.bulk.input.columns import BulkTask, Columns
from interlace.bulk.input.formats.encodings import empty, is_empty
from interlace.bulk.input.media import ImageRules
from interlace.bulk.input.rows import Rows
from interlace.bulk.input.selection import Selection
from interlace.bulk.launch.worker import is_worker
from interlace.bulk.made import check_kind
from interlace.cli.flags.bulk import BulkFlags, SelectFlags
from interlace.errors import InvalidRequestError
from interlace.models.films.kind import kind_of
from interlace.models.sizes.door import SizeDoor
from interlace.request import SamplingParams
from interlace.stages.config import OmniStageConfig


def open_rows(
    given: str | Path,
    defaults: SamplingParams,
    select: SelectFlags,
    task: BulkTask = "t2i",
    images: ImageRules = ImageRules(),
) -> Rows:
    """The rows of a file, folder or dataset. Raises `InvalidRequestError` for flags or an input that can't be used."""
    if os.path.isfile(given) and is_empty(Path(given)):  # noqa: PTH113  Path's raises for long names
        raise InvalidRequestError(empty(Path(given)), "prompts_file")
    rows = Rows.from_file(
        given,
        defaults,
        _selection(select),
        Columns(task=task, theirs=_theirs(select), ignore_unknown=select.ignore_unknown_columns),
        images=images,
        split=select.split,
        subset=select.subset,
    )
    if rows.unread is not None and not is_worker():
        sys.stderr.write(rows.unread + "\n")
    return rows


def prompt_rows(prompts: Sequence[str], defaults: SamplingParams, select: SelectFlags) -> Rows:
    """One row a prompt. Raises `InvalidRequestError` for flags that mean nothing without an input."""
    if _theirs(select) or select.split or select.subset:
        raise InvalidRequestError("--prompt has no columns or splits to choose; expected --prompts-file", "prompt")
    return Rows.from_prompts(prompts, defaults, _selection(select))


def image_rows(
    images: Sequence[str],
    prompts: Sequence[str],
    defaults: SamplingParams,
    select: SelectFlags,
    rules: ImageRules,
    mask: str | None = None,
) -> Rows:
    """One edit of the images for each prompt. Raises `InvalidRequestError` for flags that mean nothing here."""
    if _theirs(select) or select.split or select.subset:
        raise InvalidRequestError("--image has no columns or splits to choose; expected --input", "image")
    return Rows.from_images(images, prompts, defaults, _selection(select), rules, mask)


def film_rows(
    images: Sequence[str], prompts: Sequence[str], defaults: SamplingParams, select: SelectFlags, rules: ImageRules
) -> Rows:
    """One film a prompt, each beginning with the image where there is one. Raises as `image_rows`."""
    if not images:
        return prompt_rows(prompts, defaults, select)
    return image_rows(images, prompts, defaults, select, rules)


def size_door(flags: BulkFlags, stages: Sequence[OmniStageConfig] | None) -> SizeDoor | None:
    """What refuses sizes that the model can't make; None where no model of ours draws."""
    if flags.own_stages is not None or not flags.draws_here:
        return None
    options: dict[str, Any] = {**flags.model.set(), **flags.extras.set()}
    pipeline_class = None if flags.edit is None else flags.edit.pipeline
    model, unknown = flags.model.model_name, None
    if stages is not None:
        draws = [one for one in stages if one.stage_type == "diffusion"]
        if not draws:
            return None
        model, options = draws[0].model, {**draws[0].engine_args}
        pipeline_class = options.get("pipeline_class")
        unknown = "several stages draw" if len(draws) > 1 else None
    if options.get("component"):
        unknown = "--component brings parts of its own"
    return SizeDoor(
        model,
        pipeline_class=pipeline_class,
        revision=options.get("revision"),
        fetch=not (flags.select.dry_run or options.get("local_files_only")),
        unknown=unknown,
    )


def check_model_kind(flags: BulkFlags, stages: Sequence[OmniStageConfig] | None) -> None:
    """Raises `InvalidRequestError` for a model whose small files say that it makes something else than the command
    writes. Of stages the last that draws counts."""
    if flags.own_stages is not None or flags.edit is not None or not flags.draws_here:
        return
    model, options = flags.model.model_name, flags.model.set()
    if stages is not None:
        draws = [one for one in stages if one.stage_type == "diffusion"]
        if not draws:
            return
        model, options = draws[-1].model, dict(draws[-1].engine_args)
    local_only = bool(flags.select.dry_run or options.get("local_files_only"))
    revision = None if options.get("revision") is None else str(options["revision"])
    kind = kind_of(model, revision=revision, local_files_only=local_only)
    if kind is not None:
        check_kind(model, kind, flags.makes)


def _selection(select: SelectFlags) -> Selection:
    return Selection.parse(select.rows, select.where, select.limit)


def _theirs(select: SelectFlags) -> dict[str, tuple[str, ...]]:
    """Our column names with the input's. Raises `InvalidRequestError` for one that is named twice."""
    named = {name: getattr(select, f"{name}_column") for name in ("prompt", "instruction", "negative_prompt", "id")}
    pairs: list[tuple[str, tuple[str, ...]]] = [
        (ours, (theirs,)) for ours, theirs in named.items() if theirs is not None
    ]
    pairs += [("input_images", tuple(select.image_columns))] if select.image_columns else []
    for text in select.column:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        if not (ours and equals and theirs):
            raise InvalidRequestError(f"--column got {text!r}; expected OURS=THEIRS, such as seed=rng_seed", "column")
        pairs.append((ours.replace("-", "_"), (theirs,)))
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(ours for ours, _ in pairs if [name for name, _ in pairs].count(ours) > 1)
        raise InvalidRequestError(f"the column {twice} is named twice; expected one name", "column")
    return found
