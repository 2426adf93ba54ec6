"""One bulk command from its flags to its exit status: opens the sink and, when there is work, the model."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from interlace.bulk.flags import BulkFlags
from interlace.bulk.outlook import dry_run
from interlace.bulk.plan import RunOptions
from interlace.bulk.rows import Rows
from interlace.bulk.run import run_bulk
from interlace.bulk.sink import ModelId, Sink
from interlace.commands.quiet import without_bars
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    from interlace.bulk.generator import Generator


def generate(rows: Rows, flags: BulkFlags, engine: EngineConfig) -> int:
    """Make what `rows` ask for; returns the exit status.

    Raises `InvalidRequestError` for flags or rows that can't be used, `ModelLoadError` for the model.
    """
    if flags.model.backend != "diffusers":
        raise InvalidRequestError(
            f"the backend {flags.model.backend!r} is not available in this version; use diffusers", "backend"
        )
    model = ModelId(
        model=flags.model_name,
        revision=flags.model.revision,
        variant=flags.model.variant,
        torch_dtype=flags.model.torch_dtype,
    )
    options = RunOptions(
        model=model,
        base_seed=flags.run.seed,
        max_num_seqs=engine.max_num_seqs,
        grace_s=flags.run.grace_s,
        strict=flags.select.strict,
    )
    if flags.select.dry_run:
        return dry_run(rows, flags.output.output_dir, options, overwrite=flags.output.overwrite)
    with Sink(flags.output.output_dir, overwrite=flags.output.overwrite) as sink:
        return run_bulk(rows, sink, options, lambda: open_generator(flags, engine)).exit_status


def open_generator(flags: BulkFlags, engine: EngineConfig) -> "Generator":
    """What makes the images; loads the model."""
    from interlace import Omni
    from interlace.bulk.generator import OmniGenerator

    sys.stderr.write(f"loading {flags.model_name}\n")
    if not sys.stderr.isatty():
        without_bars()
    places = {"device": flags.model.device, "local_files_only": flags.model.local_files_only}
    names = {"dtype": flags.model.torch_dtype, "variant": flags.model.variant, "revision": flags.model.revision}
    optimizations = flags.speed.optimizations()
    return OmniGenerator(Omni(flags.model_name, **places, **names, optimizations=optimizations, **asdict(engine)))
