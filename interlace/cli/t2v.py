"""`interlace t2v` and `interlace t2a`: films and sounds from prompts and pictures, by the thousand."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags.bulk import BulkFlags, FilmCommonFlags, Many, SoundCommonFlags, Switch
from interlace.cli.flags.shared import RunGroup
from interlace.cli.help.words import words_of_t2i
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams


def t2v(
    *prompts: Annotated[str, Parameter(group=RunGroup)],
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[str | None, Parameter(group=RunGroup)] = None,
    image: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    images_dir: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    allow_remote_images: Annotated[bool, Switch, Parameter(group=RunGroup)] = False,
    common: FilmCommonFlags = FilmCommonFlags(),
) -> int:
    """Make films from prompts, or from prompts and first pictures, by the thousand.

    Writes what `interlace t2i` writes, one film in the place of one picture, and goes on where it was stopped in the
    same way. No film model is built in: name one, such as Wan, LTX-Video, HunyuanVideo or
    CogVideoX.

    Parameters
    ----------
    prompts
        Prompts, each in quotes; or the file that they are in.
    prompt
        One or more prompts.
    prompts_file
        As of t2i, with the further columns num_frames, seconds, fps, flow_shift, guidance_scale_2 and image (a picture
        that the film begins with: a path, a URL, a data URL, bytes as in datasets).
    image
        A picture that the films of --prompt begin with, for models that take one.
    images_dir
        What relative paths of pictures are relative to; by default the input's folder.
    allow_remote_images
        Fetch pictures from URLs: from public addresses only, at most 64 MiB and 30 s each.
    """
    from interlace.bulk.input.media import ImageRules
    from interlace.cli.rows import film_rows, open_rows
    from interlace.cli.session import generate

    _check_model(common.model.model_name, "t2v", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    flags = BulkFlags(**vars(common), makes="film")
    prompt, prompts_file = words_of_t2i(prompts, prompt, prompts_file, command="t2v")
    if images_dir is not None and not images_dir.is_dir():
        raise InvalidRequestError(f"--images-dir {images_dir} is not a folder", "images_dir")
    rules = ImageRules(folder=images_dir, allow_remote=allow_remote_images, max_images=2)
    defaults = flags.picture.sampling(flags.extras, from_file=prompt is None)
    if prompt is not None:
        rows = film_rows(image or [], prompt, defaults, flags.select, rules)
    elif image:
        raise InvalidRequestError("--image is for --prompt; rows of a file name theirs in a column image", "image")
    else:
        rows = open_rows(prompts_file or "", defaults, flags.select, task="t2v", images=rules)
    return generate(rows, flags, flags.engine)


def t2a(
    *prompts: Annotated[str, Parameter(group=RunGroup)],
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[str | None, Parameter(group=RunGroup)] = None,
    common: SoundCommonFlags = SoundCommonFlags(),
) -> int:
    """Make sounds from prompts, by the thousand.

    Writes what `interlace t2i` writes, one sound in the place of one picture, and goes on where it was stopped in the
    same way. No sound model is built in: name one, such as
    Stable Audio or AudioLDM 2.

    Parameters
    ----------
    prompts
        Prompts, each in quotes; or the file that they are in.
    prompt
        One or more prompts.
    prompts_file
        As of t2i, with the further column seconds and without height and width.
    """
    from interlace.cli.rows import open_rows, prompt_rows
    from interlace.cli.session import generate

    _check_model(common.model.model_name, "t2a", "stabilityai/stable-audio-open-1.0")
    own = {name: value for name, value in vars(common).items() if name != "sound"}
    flags = BulkFlags(**own, makes="sound")
    prompt, prompts_file = words_of_t2i(prompts, prompt, prompts_file, command="t2a")
    defaults = SamplingParams(**vars(common.sound))
    if prompt is not None:
        rows = prompt_rows(prompt, defaults, flags.select)
    else:
        rows = open_rows(prompts_file or "", defaults, flags.select, task="t2a")
    return generate(rows, flags, flags.engine)


def _check_model(name: str, command: str, example: str) -> None:
    """Raises `InvalidRequestError` where none is named: nothing that is built in makes films or sound."""
    if name == "demo":
        what = "films" if command == "t2v" else "sound"
        text = f"no built-in model makes {what}; name one: interlace {command} --model {example}"
        raise InvalidRequestError(text, "model_name")
