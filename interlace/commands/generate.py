"""`interlace t2i` and `interlace edit`: images from files of prompts, by the thousand."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from interlace.bulk.backends.flags import ApiFlags
from interlace.bulk.enhance import EnhanceFlags
from interlace.bulk.flags import BulkFlags, Many, ModelFlags, NodeFlags, OutputFlags, RunFlags, SelectFlags
from interlace.errors import InvalidRequestError
from interlace.flags import EngineFlags, ModelGroup, PictureFlags, RunGroup, SpeedFlags
from interlace.request import SamplingParams
from interlace.stages.flags import StageFlags


def t2i(
    *,
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[str | None, Parameter(group=RunGroup)] = None,
    output: OutputFlags = OutputFlags(),  # noqa: B008
    select: SelectFlags = SelectFlags(),  # noqa: B008 (frozen)
    run: RunFlags = RunFlags(),  # noqa: B008
    picture: PictureFlags = PictureFlags(),  # noqa: B008
    model_name: Annotated[str, Parameter(group=ModelGroup)] = "demo",
    model: ModelFlags = ModelFlags(),  # noqa: B008
    engine: EngineFlags = EngineFlags(),  # noqa: B008
    speed: SpeedFlags = SpeedFlags(),  # noqa: B008
    nodes: NodeFlags = NodeFlags(),  # noqa: B008
    stages: StageFlags = StageFlags(),  # noqa: B008
    api: ApiFlags = ApiFlags(),  # noqa: B008
    enhance: EnhanceFlags = EnhanceFlags(),  # noqa: B008
) -> int:
    """Make images from prompts, by the thousand.

    Writes DIR/000000.png (or DIR/ID.png), manifest.jsonl, failures.jsonl, summary.json and report.html. The
    same command run again makes only what is missing or has changed. Ctrl-C finishes what is under way.

    ```text
    interlace t2i --prompt "a red circle" "a blue star" --output-dir out
    interlace t2i --prompts-file prompts.jsonl --output-dir out --batch-size 8
    interlace t2i --model-name black-forest-labs/FLUX.1-dev --prompts-file prompts.csv --output-dir out --height 768
    ```

    With --ar-stage or --deploy-config a language model writes the prompts that are drawn.

    ```text
    interlace t2i --deploy-config examples/expand.yaml --prompt "a star" "something round and red" --output-dir out
    ```

    A prompts file is JSONL, JSON, CSV, TSV, TXT (one prompt a line) or Parquet; it may also be a folder of Parquet
    files, a folder of images with metadata.jsonl or metadata.csv, a dataset that `save_to_disk` wrote, or the id of a
    dataset on the Hugging Face hub. Columns: prompt, id, negative_prompt, height, width, num_inference_steps,
    guidance_scale, true_cfg_scale, seed, num_images, strength, priority; flags hold where a row has none.

    ```text
    interlace t2i --prompts-file data.parquet --prompt-column caption --where "width >= 512" --output-dir out --dry-run
    ```

    Parameters
    ----------
    prompt
        One or more prompts; or use --prompts-file.
    prompts_file
        A file, a folder or a dataset of prompts, with optional parameters for each.
    model_name
        A directory, a hub id, or "demo" for the built-in model.
    """
    from interlace.bulk.inputs import open_rows, prompt_rows
    from interlace.bulk.session import generate

    if (prompt is None) == (prompts_file is None):
        raise InvalidRequestError("expected either --prompt or --prompts-file, and not both", "prompt")
    defaults = SamplingParams(**asdict(picture))
    rows = (
        prompt_rows(prompt, defaults, select) if prompt is not None else open_rows(prompts_file or "", defaults, select)
    )
    flags = BulkFlags(
        model_name=model_name,
        output=output,
        select=select,
        run=run,
        model=model,
        speed=speed,
        nodes=nodes,
        stages=stages,
        api=api,
        enhance=enhance,
    )
    return generate(rows, flags, engine)
