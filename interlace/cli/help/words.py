"""Words of a command line that no flag names: prompts, instructions, pictures, or the file that they are in."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from interlace.bulk.input.formats import suffixes
from interlace.bulk.input.formats.pipe import STANDARD_INPUT, is_standard_input
from interlace.errors import InvalidRequestError

_WHAT_TO_DRAW = """nothing to draw. Say what, or where it is written:
  interlace t2i "a red circle"                 one picture, in output/; more prompts, more pictures
  interlace t2i prompts.csv -o out             one picture a row (JSONL, CSV, TXT, Parquet, ...); --help says more"""
_WHAT_TO_MAKE = """nothing to make. Say what, or where it is written:
  interlace {0} "rain on a roof" --model DIR_OR_ID
  interlace {0} prompts.csv --model DIR_OR_ID -o out"""
_WHAT_TO_EDIT = """nothing to edit. Say which picture and what to do, or where it is written:
  interlace edit cat.png "make it blue"        one picture, in output/
  interlace edit edits.csv -o out              one edit a row (input_images, instruction); --help says more"""


def words_of_t2i(
    words: Sequence[str], prompt: list[str] | None, prompts_file: str | None, command: str = "t2i"
) -> tuple[list[str] | None, str | None]:
    """The prompts, or the file. Raises `InvalidRequestError` where both or neither are given."""
    if len(words) == 1 and (_is_table(words[0]) or is_standard_input(words[0])) and prompts_file is None:
        prompts_file = words[0]
    elif STANDARD_INPUT in (*words, *(prompt or ())):
        text = f"standard input stands alone, without other prompts: interlace {command} -"
        raise InvalidRequestError(text, "prompt")
    elif words:
        if len(words) == 1:
            _check_is_prompt(words[0], command)
        prompt = [*words, *(prompt or [])]
        _note_single_words(words)
    if prompt is None and prompts_file is None:
        raise InvalidRequestError(_WHAT_TO_DRAW if command == "t2i" else _WHAT_TO_MAKE.format(command), "prompt")
    if prompt is not None and prompts_file is not None:
        raise InvalidRequestError("expected either prompts or --prompts-file, and not both", "prompt")
    return prompt, prompts_file


def words_of_edit(
    words: Sequence[str], table: str | None, image: list[str] | None, prompt: list[str] | None
) -> tuple[str | None, list[str] | None, list[str] | None]:
    """The file of edits, or pictures and instructions. Raises `InvalidRequestError` for anything else."""
    if any(is_standard_input(word) for word in (*words, *(image or ()), table or "")):
        text = "standard input gives one prompt a line, and edits have pictures: name a file (JSONL, CSV, ...) of them"
        raise InvalidRequestError(text, "input")
    if len(words) == 1 and _is_table(words[0]) and table is None:
        table = words[0]
    elif words:
        pictures = [word for word in words if _is_file(word) or word.startswith(("http://", "https://", "data:"))]
        told = [word for word in words if word not in pictures]
        image = [*pictures, *(image or [])] or None
        prompt = [*told, *(prompt or [])] or None
        if image is None:
            raise InvalidRequestError(f'there is no picture {words[0]!r}; interlace edit PICTURE "WHAT TO DO"', "image")
    if table is None and image is None and prompt is None:
        raise InvalidRequestError(_WHAT_TO_EDIT, "input")
    if table is None and image is not None and prompt is None:
        raise InvalidRequestError(f'say what to do with it: interlace edit {image[0]} "make it blue"', "prompt")
    if (image is None) == (table is None) or (image is None) != (prompt is None):
        raise InvalidRequestError("expected either --input, or --image with --prompt", "input")
    return table, image, prompt


def _is_table(word: str) -> bool:
    return Path(word).suffix.lower() in suffixes() and (" " not in word.strip() or _is_file(word))


def _check_is_prompt(word: str, command: str) -> None:
    """Raises `InvalidRequestError` for a file or folder whose name would be drawn in the place of what is in it."""
    if not os.path.exists(word):  # noqa: PTH110  Path's raises for long words
        return
    as_prompt = f"as a prompt: interlace {command} --prompt {shlex.quote(word)}"
    if os.path.isdir(word):  # noqa: PTH112
        as_input = f"as the input: interlace {command} --prompts-file {shlex.quote(word)}"
        raise InvalidRequestError(f"{word} is a folder; {as_input}; {as_prompt}", "prompt")
    if Path(word).suffix or Path(word).name != word:
        expected = f"expected one of {', '.join(suffixes())}"
        raise InvalidRequestError(f"{word} is a file of a kind that is not read; {expected}; {as_prompt}", "prompt")
    sys.stderr.write(f"{word} is taken as a prompt; the file of that name is not read\n")


def _note_single_words(words: Sequence[str]) -> None:
    if len(words) > 1 and not any(" " in word for word in words):
        joined = " ".join(words)
        sys.stderr.write(f'{len(words)} prompts of one word each; as one prompt: interlace t2i "{joined}"\n')


def _is_file(word: str) -> bool:
    return os.path.isfile(word)  # noqa: PTH113  Path's raises for long words
