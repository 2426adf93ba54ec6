"""Which sizes a pipeline takes, asked of its own call: it is stopped once it has checked what it was given."""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from diffusers import DiffusionPipeline
from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.models.films.lengths import check_num_frames, frames_name
from interlace.models.loader import defaults_for
from interlace.models.places import read_settings
from interlace.models.quiet import quiet
from interlace.models.sizes.hollow import hollow_pipeline

Sizes = Mapping[str, int]  # height and width in pixels, num_frames

_OTHER = {"height": "width", "width": "height"}
_GOOD = (1024, 768, 512, 256, 128, 64)  # sides of squares; any pipeline takes one of them
_FAR = 512  # pixels; no pipeline wants larger steps


_turn = threading.RLock()  # what is silenced is the whole process's


@contextmanager
def _silence() -> Iterator[None]:
    with _turn, quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class UnknownRuleError(Exception):
    """A pipeline that can't be asked."""


class _PastChecks(Exception):
    """A call has come past its checks."""


class PipelineSizes:
    """What one pipeline says of sizes."""

    def __init__(self, pipeline: DiffusionPipeline, defaults: Mapping[str, Any]) -> None:
        """`pipeline` has no weights and is this rule's own; `defaults` are arguments of its call that the model
        prefers. Raises `UnknownRuleError` for a pipeline whose call doesn't come as far as its checks."""
        self._pipeline, self._name = pipeline, type(pipeline).__name__
        self._parameters = dict(inspect.signature(type(pipeline).__call__).parameters)
        self._stop_after_checks()
        picture = Image.new("RGB", (64, 64))
        needed = {n: picture for n, p in self._parameters.items() if p.default is p.empty and "image" in n}
        first = {"prompt": "a", **needed, **defaults}
        ways = [self._known(first), self._known({"image": picture, **first})]
        found = next((way for way in ways if self._why_not(way) is None), None)
        if found is None:
            raise UnknownRuleError(f"{self._name} doesn't say without weights which sizes it takes")
        self._usual = found

    @classmethod
    def of(cls, folder: Path, pipeline_class: str | None = None) -> "PipelineSizes":
        """That of a model directory. Raises `UnknownRuleError`."""
        try:
            with _silence():
                pipeline = hollow_pipeline(folder, pipeline_class)
        except Exception as error:  # of any class's own making
            raise UnknownRuleError(f"the small files in {folder} don't make a pipeline: {error}") from error
        own = str(read_settings(folder / "model_index.json").get("_class_name"))
        return cls(pipeline, defaults_for(pipeline, read_settings(folder / "interlace.json"), own))

    def check(self, sizes: Sizes) -> None:
        """Raises `InvalidRequestError` for sizes that the pipeline's call refuses, with those next to them that it
        takes. What it rounds by itself, it takes."""
        for name in sizes:
            taken = frames_name(self._parameters) is not None if name == "num_frames" else name in self._parameters
            if not taken and not self._takes_any:
                text = f"{self._name} takes no {name}; leave it out, or choose a model that has it"
                raise InvalidRequestError(text, name)
        check_num_frames(self._pipeline, sizes.get("num_frames"))
        asked = {name: size for name, size in sizes.items() if name in _OTHER}
        why = self._why_not({**self._usual, **asked})
        if isinstance(why, ValueError):
            raise self._refusal(asked, why)

    @property
    def _takes_any(self) -> bool:
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters.values())

    def _known(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if name in self._parameters}

    def _stop_after_checks(self) -> None:
        check: Callable[..., None] | None = getattr(self._pipeline, "check_inputs", None)

        def checked(*args: object, **kwargs: object) -> NoReturn:
            if check is not None:
                check(*args, **kwargs)
            raise _PastChecks

        def encoded(*args: object, **kwargs: object) -> NoReturn:
            raise _PastChecks

        vars(self._pipeline).update(check_inputs=checked, encode_prompt=encoded)

    def _why_not(self, arguments: Mapping[str, Any]) -> Exception | None:
        """What the pipeline's call raises for these arguments; None where they pass."""
        try:
            with _silence():
                self._pipeline(**arguments)
        except _PastChecks:
            return None
        except Exception as error:  # a refusal, or what comes of having no weights
            return error
        return UnknownRuleError("it ran without weights")

    def _refusal(self, asked: Sizes, why: Exception) -> InvalidRequestError:
        near = {name: self._near(name, size) for name, size in asked.items() if not self._takes(name, size)}
        if not near or not all(near.values()):
            words = " ".join(str(why).split())
            return InvalidRequestError(f"{self._name} refuses this size: {words}", next(iter(asked)))
        given = " and ".join(f"{name} {asked[name]}" for name in near)
        tries = ", and ".join(dict.fromkeys(" or ".join(map(str, sides)) for sides in near.values()))
        step = _common_step(near.values())
        many = len(near) > 1
        if step is None:
            what = f"{'are sizes' if many else 'is a size'} that {self._name} refuses"
        else:
            what = f"{'are not multiples' if many else 'is not a multiple'} of {step}, as {self._name} wants"
        return InvalidRequestError(f"{given} {what}; try {tries}", next(iter(near)))

    def _near(self, name: str, size: int) -> list[int]:
        """The sides next to one that is refused: one below, where there is one, and one above."""
        below = (side for side in range(size - 1, max(size - _FAR, 0), -1) if self._takes(name, side))
        above = (side for side in range(size + 1, size + _FAR) if self._takes(name, side))
        return [side for side in (next(below, None), next(above, None)) if side is not None]

    def _takes(self, name: str, side: int) -> bool:
        """Whether it takes a side beside one that is no trouble."""
        return self._good is not None and self._takes_pair({name: side, _OTHER[name]: self._good})

    def _takes_pair(self, sizes: Sizes) -> bool:
        return self._why_not({**self._usual, **self._known(sizes)}) is None

    @cached_property
    def _good(self) -> int | None:
        return next((side for side in _GOOD if self._takes_pair(dict.fromkeys(_OTHER, side))), None)


def _common_step(near: Iterable[list[int]]) -> int | None:
    """What all of these sides are multiples of, and next to each other."""
    steps = {sides[-1] - sides[0] if len(sides) > 1 else sides[0] for sides in near}
    step = steps.pop()
    return step if not steps and all(side % step == 0 for sides in near for side in sides) else None
