"""`interlace t2i`: images from prompts and from files of them, by the thousand."""

import sys
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags.bulk import BulkFlags, CommonFlags, Many
from interlace.cli.flags.shared import RunGroup
from interlace.cli.help.words import words_of_t2i


def t2i(
    *prompts: Annotated[str, Parameter(group=RunGroup)],
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[str | None, Parameter(group=RunGroup)] = None,
    common: CommonFlags = CommonFlags(),
) -> int:
    """Make images from prompts, by the thousand.

    Prompts add to the folder. A file of prompts (JSONL, JSON, CSV, TSV, TXT, Parquet, a folder, a dataset) fills it,
    and the same command again makes only what is missing or has changed. Ctrl-C finishes what is under way.

    Parameters
    ----------
    prompts
        Prompts, each in quotes; or the file that they are in; or `-`, standard input with one a line.
    prompt
        One or more prompts.
    prompts_file
        A file, a folder or a dataset of prompts, with optional parameters for each. Columns: prompt, id,
        negative_prompt, height, width, num_inference_steps, guidance_scale, true_cfg_scale, seed, num_images, strength,
        priority; flags hold where a row has none.
    """
    from interlace.cli.rows import open_rows, prompt_rows
    from interlace.cli.session import generate
    from interlace.demo.notes import notes

    flags = BulkFlags(**vars(common))
    prompt, prompts_file = words_of_t2i(prompts, prompt, prompts_file)
    defaults = flags.picture.sampling(flags.extras, from_file=prompt is None)
    if prompt is None:
        return generate(open_rows(prompts_file or "", defaults, flags.select), flags, flags.engine)
    rows = prompt_rows(prompt, defaults, flags.select)
    if flags.model.model_name == "demo" and flags.backend == "diffusers" and not flags.stages.given:
        for note in notes(prompt, flags.picture.width, flags.picture.height):
            sys.stderr.write(f"note: {note}\n")
    return generate(rows, flags, flags.engine)
