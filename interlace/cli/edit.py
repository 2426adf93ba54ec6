"""`interlace edit`: pictures edited by instruction, from files of rows, by the thousand."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags.bulk import BulkFlags, CommonFlags, Many, Switch
from interlace.cli.flags.shared import ModelGroup, RunGroup
from interlace.cli.help.words import words_of_edit
from interlace.errors import InvalidRequestError

_MAX_API_IMAGES = 16  # of OpenAI's edits


def edit(
    *words: Annotated[str, Parameter(group=RunGroup)],
    input: Annotated[str | None, Parameter(group=RunGroup)] = None,
    image: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    mask: Annotated[str | None, Parameter(group=RunGroup)] = None,
    images_dir: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    allow_remote_images: Annotated[bool, Switch, Parameter(group=RunGroup)] = False,
    common: CommonFlags = CommonFlags(),
    model_type: Annotated[str | None, Parameter(group=ModelGroup)] = None,
) -> int:
    """Edit pictures by instruction, by the thousand.

    Writes what `interlace t2i` writes, and goes on where it was stopped in the same way.

    Parameters
    ----------
    words
        Pictures and, in quotes, what to do with them; or the file of edits.
    input
        A file, a folder or a dataset of edits, as --prompts-file of t2i, with the columns instruction (or prompt) and
        input_images: a path, a URL, a data URL, bytes as in datasets, or a list of these (in CSV a JSON array).
    image
        One or more pictures, all of them for each --prompt.
    prompt
        One or more instructions for --image; each makes an edit of its own.
    mask
        For --image: a picture of its size, white where to edit, for pipelines that inpaint. In files: the column mask.
    images_dir
        What relative paths are relative to; by default the input's folder.
    allow_remote_images
        Fetch pictures from URLs: from public addresses only, at most 64 MiB and 30 s each.
    model_type
        How to run the model: qwen, qwen_singleimg, flux2, flux2_klein, flux1_kontext, longcat, glm_image, or a pipeline
        class of diffusers that takes an image and a prompt; found from the model.
    """
    from interlace.bulk.input.media import ImageRules
    from interlace.cli.rows import image_rows, open_rows
    from interlace.cli.session import generate
    from interlace.models.editing import find_edit_model

    flags = BulkFlags(**vars(common), task="edit", model_type=model_type)
    input, image, prompt = words_of_edit(words, input, image, prompt)
    if flags.model.model_name == "demo":
        flags = replace(flags, model=replace(flags.model, model_name="demo-edit"))
    if images_dir is not None and not images_dir.is_dir():
        raise InvalidRequestError(f"--images-dir {images_dir} is not a folder", "images_dir")
    rules = ImageRules(folder=images_dir, allow_remote=allow_remote_images, max_images=_MAX_API_IMAGES)
    if flags.backend == "diffusers":
        model = flags.model
        kind = find_edit_model(
            model.model_name, model_type, revision=model.revision, local_files_only=model.local_files_only
        )
        flags = replace(flags, edit=kind)
        rules = replace(rules, max_images=kind.max_images, model=kind.pipeline)
    defaults = flags.picture.sampling(flags.extras, from_file=image is None or prompt is None)
    if image is not None and prompt is not None:
        rows = image_rows(image, prompt, defaults, flags.select, rules, mask)
    else:
        if mask is not None:
            raise InvalidRequestError("--mask is for --image; a file of edits has a column mask", "mask")
        rows = open_rows(input or "", defaults, flags.select, task="edit", images=rules)
    return generate(rows, flags, flags.engine)
