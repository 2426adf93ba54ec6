"""What a job came to, as the thing that is written: a picture, a film, a sound or a text; and what the manifest says of
it."""

from collections.abc import Mapping
from typing import Any, Literal

from interlace.errors import InvalidRequestError
from interlace.media.clip import Clip, Sound
from interlace.media.files import clips_of
from interlace.models.films.kind import ModelKind
from interlace.models.films.lengths import Makes
from interlace.request import Output

Wanted = Makes | Literal["text", "speech"]  # speech: the sound of a text that is written, too
_COMMANDS: dict[str, str] = {"pictures": "interlace t2i", "film": "interlace t2v", "sound": "interlace t2a"}


def check_kind(model: str, kind: ModelKind, wanted: Wanted) -> None:
    """Raises `InvalidRequestError` where a model makes something else than a command writes."""
    if kind.makes != wanted:
        text = f"{model} makes {NOUNS[kind.makes]} ({kind.pipeline_class}); this command writes {NOUNS[wanted]}"
        raise InvalidRequestError(f"{text}: use {_COMMANDS[kind.makes]}", "model_name")


def made_of(output: Output, wanted: Wanted) -> Any:
    """The picture, `Clip`, `Sound` or text of an output. Raises `InvalidRequestError` where the model made something
    else."""
    if wanted == "text":
        return output.text or ""
    wanted = "sound" if wanted == "speech" else wanted
    got: Makes = "film" if output.frames else "sound" if output.audio else "pictures"
    if got != wanted or (got == "pictures" and not output.images):
        made = "nothing" if got == "pictures" and not output.images else got
        text = f"the model made {made}; this command writes {wanted}"
        raise InvalidRequestError(text if made == "nothing" else f"{text}: use {_COMMANDS[got]}")
    if got == "pictures":
        return output.images[0]
    return clips_of(output.frames, output.fps, output.audio, output.sample_rate)[0]


def facts_of(made: Any) -> dict[str, Any]:
    """Its size, and how long it lasts; of a text nothing, which stands in the manifest itself."""
    if isinstance(made, str):
        return {}
    if isinstance(made, Clip):
        width, height = made.frames.size
        heard = {} if made.sound is None else {"sample_rate": made.sound.rate}
        return {"height": height, "width": width, "num_frames": len(made.frames), "fps": made.fps,
                "seconds": round(made.seconds, 4), **heard}  # fmt: skip
    if isinstance(made, Sound):
        return {"sample_rate": made.rate, "channels": len(made.samples), "seconds": round(made.seconds, 4)}
    return {"height": made.height, "width": made.width}


NOUNS: dict[Wanted, str] = {
    "pictures": "images", "film": "films", "sound": "sounds", "text": "texts", "speech": "sounds",
}  # fmt: skip


def noun(record: Mapping[str, object]) -> str:
    """What to call several of the things that such a line of a manifest tells of: images, films, sounds, texts."""
    if "num_frames" in record and "fps" in record:
        return NOUNS["film"]
    if record.get("encoding") == "txt":
        return NOUNS["text"]
    return NOUNS["sound" if "channels" in record and "sample_rate" in record else "pictures"]
