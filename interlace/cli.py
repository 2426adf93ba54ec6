"""The command line: flags in, one thin call each, exit status out. What is heavy is imported inside the commands."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env
from rich.console import Console

from interlace import __version__
from interlace.errors import InterlaceError, InvalidRequestError, ModelLoadError
from interlace.flags import EngineFlags, FlagFile, ModelGroup, PictureFlags, RunGroup
from interlace.request import SamplingParams

if TYPE_CHECKING:
    from interlace.bulk.generator import Generator

OK, SOME_FAILED, UNUSABLE = 0, 1, 2  # exit statuses; 128 + n where signal n ended the run

_FLAGS_HELP = """
Every flag may be written `--like-this` or `--like_this`, may stand in a YAML file (`--config FILE`; keys `like_this`,
at the top or under the command's name), or in the environment (`INTERLACE_LIKE_THIS`). A flag wins over the
environment, the environment over the file.
"""
_STATUS_HELP = "Exit status: 0 all done; 1 some rows failed, the others are written; 2 unusable input or flags.\n"

app = App(
    name="interlace",
    help="Runs any diffusers pipeline for many requests at once; every request gets the output it would get alone.",
    help_epilogue="```text\ninterlace t2i --prompt 'a red circle' --output-dir out\n```\n" + _FLAGS_HELP,
    version=__version__,
    help_format="markdown",
    error_console=Console(stderr=True),
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
)
bench = App(name="bench", help="Measure what sharing forwards gains on this machine.")
app.command(bench)

Model = Annotated[str, Parameter(group=ModelGroup)]
Maybe = Annotated[str | None, Parameter(group=ModelGroup)]


@app.command(help_epilogue=_STATUS_HELP + "\n" + _FLAGS_HELP)
def t2i(
    *,
    prompt: Annotated[list[str] | None, Parameter(group=RunGroup, consume_multiple=True, negative=())] = None,
    prompts_file: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    output_dir: Annotated[Path, Parameter(group=RunGroup)],
    seed: Annotated[int, Parameter(group=RunGroup)] = 0,
    limit: Annotated[int | None, Parameter(group=RunGroup)] = None,
    overwrite: Annotated[bool, Parameter(group=RunGroup, negative=())] = False,
    grace_s: Annotated[float, Parameter(group=RunGroup)] = 60.0,
    picture: PictureFlags = PictureFlags(),  # noqa: B008 (frozen)
    model_name: Model = "demo",
    backend: Model = "diffusers",
    torch_dtype: Maybe = None,
    device: Maybe = None,
    revision: Maybe = None,
    variant: Maybe = None,
    local_files_only: Annotated[bool, Parameter(group=ModelGroup, negative=())] = False,
    engine: EngineFlags = EngineFlags(),  # noqa: B008 (frozen)
) -> int:
    """Make images from prompts, by the thousand.

    Writes DIR/000000.png (or DIR/ID.png), manifest.jsonl, failures.jsonl, summary.json and contact_sheet.jpg. The
    same command run again makes only what is missing or has changed. Ctrl-C finishes what is under way.

    ```text
    interlace t2i --prompt "a red circle" "a blue star" --output-dir out
    interlace t2i --prompts-file prompts.jsonl --output-dir out --batch-size 8
    interlace t2i --model-name black-forest-labs/FLUX.1-dev --prompts-file prompts.csv --output-dir out --height 768
    ```

    A prompts file is JSONL, JSON, CSV, TSV or TXT (one prompt a line). Columns: prompt, id, negative_prompt, height,
    width, num_inference_steps, guidance_scale, true_cfg_scale, seed, num_images, strength, priority.

    Parameters
    ----------
    prompt
        One or more prompts; or use --prompts-file.
    prompts_file
        A file of prompts with optional parameters for each.
    output_dir
        Where everything is written; made if missing.
    seed
        A row without a seed gets one made of this number, its id and the image's index.
    limit
        Use only so many rows, from the start.
    overwrite
        Make every image anew, whatever is there.
    grace_s
        Seconds that the first Ctrl-C waits for images under way.
    model_name
        A directory, a hub id, or "demo" for the built-in model.
    backend
        What makes the images; this version has diffusers.
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
    from interlace.bulk.plan import RunOptions
    from interlace.bulk.rows import Rows
    from interlace.bulk.run import run_bulk
    from interlace.bulk.sink import ModelId, Sink

    if backend != "diffusers":
        raise InvalidRequestError(f"the backend {backend!r} is not available in this version; use diffusers", "backend")
    if (prompt is None) == (prompts_file is None):
        raise InvalidRequestError("expected either --prompt or --prompts-file, and not both", "prompt")
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"limit is {limit}; expected at least 1", "limit")
    defaults = SamplingParams(**asdict(picture))
    rows = (
        Rows.from_prompts(prompt, defaults, limit) if prompt is not None
        else Rows.from_file(prompts_file or Path(), defaults, limit)
    )  # fmt: skip
    model = ModelId(model=model_name, revision=revision, variant=variant, torch_dtype=torch_dtype)
    options = RunOptions(model=model, base_seed=seed, max_num_seqs=engine.max_num_seqs, grace_s=grace_s)

    def open_generator() -> "Generator":
        from interlace import Omni
        from interlace.bulk.generator import OmniGenerator

        print(f"loading {model_name}", file=sys.stderr)
        if not sys.stderr.isatty():
            _without_bars()
        places = {"device": device, "local_files_only": local_files_only}
        names = {"dtype": torch_dtype, "variant": variant, "revision": revision}
        return OmniGenerator(Omni(model_name, **places, **names, **asdict(engine)))

    with Sink(output_dir, overwrite=overwrite) as sink:
        return run_bulk(rows, sink, options, open_generator).exit_status


@app.command
def info(
    *,
    model_name: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    local_files_only: Annotated[bool, Parameter(group=ModelGroup, negative=())] = False,
) -> None:
    """Say what this machine, this install and a model can do.

    ```text
    interlace info
    interlace info --model-name demo
    interlace info --model-name ./my-model --json
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id or "demo": its class, components, default arguments, and what of it can be batched.
    json
        One JSON object on stdout instead of a table.
    local_files_only
        Don't download anything.
    """
    from interlace.info import gather, show

    show(gather(model_name, local_files_only=local_files_only), as_json=json)


@bench.command
def throughput(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    workload: str = "mixed",
    num_requests: int = 16,
    repeats: int = 1,
    max_num_seqs: int = 16,
    seed: int = 0,
    torch_dtype: str | None = None,
    device: str | None = None,
    output: Path | None = None,
) -> None:
    """The same requests one by one, in static batches, in waves and through Interlace, in one run.

    A table on stderr; one JSON object last on stdout. Checks that outputs are equal to stock diffusers'.

    ```text
    interlace bench throughput
    interlace bench throughput --workload uniform --num-requests 32 --output result.json
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    workload
        uniform (equal requests) or mixed (steps 8 to 30, guidance 1 to 7, three sizes).
    num_requests
        How many requests each way gets.
    repeats
        How often each way is measured; medians are reported.
    max_num_seqs
        Requests in flight at once.
    seed
        Of the workload.
    torch_dtype
        float32, bfloat16 or float16.
    device
        cuda, cpu, ...
    output
        A file for the JSON object as well.
    """
    from interlace.bench.throughput import throughput as measure

    _without_bars()
    measure(
        model_name=model_name,
        workload=workload,
        num_requests=num_requests,
        repeats=repeats,
        max_num_seqs=max_num_seqs,
        seed=seed,
        torch_dtype=torch_dtype,
        device=device,
        output=output,
    )


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; says on stderr, in a line or two, what was wrong with it."""
    try:
        tokens, file = FlagFile.split(arguments)
        app.config = [Env("INTERLACE_", command=False, show=False), *([file] if file else [])]
        return app(tokens) or OK
    except (CycloptsError, InvalidRequestError, ModelLoadError) as error:
        return _complain(str(error), UNUSABLE)
    except InterlaceError as error:
        return _complain(str(error), SOME_FAILED)
    except KeyboardInterrupt:
        return _complain("stopped; the same command goes on from here", 130)
    except Exception as error:
        if "INTERLACE_TRACEBACK" in os.environ:
            raise
        words = f"unexpected {type(error).__name__}: {error}"
        return _complain(f"{words}\n(INTERLACE_TRACEBACK=1 shows where)", SOME_FAILED)


def _without_bars() -> None:
    """Loading bars of the libraries below are for terminals; in a log they are noise."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _complain(text: str, status: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return status


def main() -> None:
    """The `interlace` command."""
    # What the libraries below say of their own affairs is not for users of this command; both can be turned up again.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)
    # OpenMP's threads spin while they wait for each other, by default for long. On a machine whose cores were shared
    # with another program that made t2i 10 to 15 times slower than with a short spin.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    sys.exit(run(sys.argv[1:]))
