"""`interlace edit`: pictures edited by instruction, from files of rows, by the thousand."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.bulk.backends.flags import ApiFlags
from interlace.bulk.enhance import EnhanceFlags
from interlace.bulk.flags import BulkFlags, Many, ModelFlags, NodeFlags, OutputFlags, RunFlags, SelectFlags, Switch
from interlace.errors import InvalidRequestError
from interlace.flags import EngineFlags, ModelGroup, PictureFlags, RunGroup, SpeedFlags
from interlace.request import SamplingParams
from interlace.stages.flags import StageFlags

_MAX_API_IMAGES = 16  # of OpenAI's edits


def edit(
    *,
    input: Annotated[str | None, Parameter(group=RunGroup)] = None,
    image: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    images_dir: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    allow_remote_images: Annotated[bool, Switch, Parameter(group=RunGroup)] = False,
    output: OutputFlags = OutputFlags(),  # noqa: B008
    select: SelectFlags = SelectFlags(),  # noqa: B008 (frozen)
    run: RunFlags = RunFlags(),  # noqa: B008
    picture: PictureFlags = PictureFlags(),  # noqa: B008
    model_name: Annotated[str, Parameter(group=ModelGroup)] = "demo-edit",
    model_type: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    engine: EngineFlags = EngineFlags(),  # noqa: B008
    speed: SpeedFlags = SpeedFlags(),  # noqa: B008
    nodes: NodeFlags = NodeFlags(),  # noqa: B008
    stages: StageFlags = StageFlags(),  # noqa: B008
    api: ApiFlags = ApiFlags(),  # noqa: B008
    enhance: EnhanceFlags = EnhanceFlags(),  # noqa: B008
) -> int:
    """Edit pictures by instruction, by the thousand.

    Writes what `interlace t2i` writes, and goes on where it was stopped in the same way. Different pictures,
    instructions, sizes and numbers of pictures share forwards wherever the model allows it.

    ```text
    interlace t2i --prompt "a red circle" --output-dir pictures
    interlace edit --image pictures/000000.png --prompt "make the circle blue" --output-dir out
    interlace edit --input data.csv --output-dir out --batch-size 8
    interlace edit --model-name Qwen/Qwen-Image-Edit-2511 --input data.parquet --output-dir out
    ```

    An input is what t2i calls a prompts file, with the columns instruction (or prompt) and input_images: a path, a
    URL, a data URL, bytes as in datasets, or a list of these (in CSV a JSON array: `["a.png", "b.png"]`). Relative
    paths are relative to the input.

    Model types: qwen, qwen_singleimg, flux2, flux2_klein, flux1_kontext, longcat, glm_image; found from the model.

    Parameters
    ----------
    input
        A file, a folder or a dataset of edits: input_images and instruction, with optional parameters for each.
    image
        One or more pictures, all of them for each --prompt.
    prompt
        One or more instructions for --image; each makes an edit of its own.
    images_dir
        What relative paths are relative to; by default the input's folder.
    allow_remote_images
        Fetch pictures from URLs: from public addresses only, at most 64 MiB and 30 s each.
    model_name
        A directory, a hub id, or "demo-edit" for the built-in model.
    model_type
        How to run the model: one of the types above, or a pipeline class of diffusers that takes an image and a prompt.
    """
    from interlace.bulk.images import ImageRules
    from interlace.bulk.inputs import image_rows, open_rows
    from interlace.bulk.session import generate
    from interlace.models.editing import find_edit_model

    if (image is None) == (input is None) or (image is None) != (prompt is None):
        raise InvalidRequestError("expected either --input, or --image with --prompt", "input")
    if images_dir is not None and not images_dir.is_dir():
        raise InvalidRequestError(f"--images-dir {images_dir} is not a folder", "images_dir")
    rules = ImageRules(folder=images_dir, allow_remote=allow_remote_images, max_images=_MAX_API_IMAGES)
    kind = None
    if model.backend == "diffusers":
        kind = find_edit_model(model_name, model_type, revision=model.revision, local_files_only=model.local_files_only)
        rules = replace(rules, max_images=kind.max_images, model=kind.pipeline)
    defaults = SamplingParams(**asdict(picture))
    if image is not None and prompt is not None:
        rows = image_rows(image, prompt, defaults, select, rules)
    else:
        rows = open_rows(input or "", defaults, select, task="edit", images=rules)
    flags = BulkFlags(
        model_name=model_name,
        output=output,
        select=select,
        run=run,
        model=model,
        speed=speed,
        nodes=nodes,
        stages=stages,
        edit=kind,
        model_type=model_type,
        api=api,
        enhance=enhance,
        task="edit",
    )
    return generate(rows, flags, engine)
