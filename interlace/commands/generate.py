"""`interlace t2i` and `interlace edit`: images from files of prompts, by the thousand."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.bulk.flags import BulkFlags, Many, ModelFlags, OutputFlags, RunFlags, SelectFlags
from interlace.errors import InvalidRequestError
from interlace.flags import EngineFlags, ModelGroup, PictureFlags, RunGroup, SpeedFlags
from interlace.request import SamplingParams


def t2i(
    *,
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    output: OutputFlags,
    select: SelectFlags = SelectFlags(),  # noqa: B008 (frozen)
    run: RunFlags = RunFlags(),  # noqa: B008
    picture: PictureFlags = PictureFlags(),  # noqa: B008
    model_name: Annotated[str, Parameter(group=ModelGroup)] = "demo",
    model: ModelFlags = ModelFlags(),  # noqa: B008
    engine: EngineFlags = EngineFlags(),  # noqa: B008
    speed: SpeedFlags = SpeedFlags(),  # noqa: B008
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
    model_name
        A directory, a hub id, or "demo" for the built-in model.
    """
    from interlace.bulk.rows import Rows
    from interlace.bulk.session import generate

    if (prompt is None) == (prompts_file is None):
        raise InvalidRequestError("expected either --prompt or --prompts-file, and not both", "prompt")
    if select.limit is not None and select.limit < 1:
        raise InvalidRequestError(f"limit is {select.limit}; expected at least 1", "limit")
    defaults = SamplingParams(**asdict(picture))
    rows = (
        Rows.from_prompts(prompt, defaults, select.limit) if prompt is not None
        else Rows.from_file(prompts_file or Path(), defaults, select.limit)
    )  # fmt: skip
    flags = BulkFlags(model_name=model_name, output=output, select=select, run=run, model=model, speed=speed)
    return generate(rows, flags, engine)
