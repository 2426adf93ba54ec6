"""How outputs are shown and kept: PNG bytes for notebooks, files, a bar while requests run. Knows no engine."""

import io
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
logger = logging.getLogger("interlace")
_GAP = 4  # pixels between pictures side by side


def png_of(images: "Sequence[Image]") -> bytes:
    """One PNG of PIL pictures, side by side where there are several."""
    from PIL import Image

    sheet = images[0]
    if len(images) > 1:
        width = sum(image.width for image in images) + _GAP * (len(images) - 1)
        sheet = Image.new("RGB", (width, max(image.height for image in images)), "white")
        left = 0
        for image in images:
            sheet.paste(image.convert("RGB"), (left, 0))
            left += image.width + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def save_images(images: "Sequence[Image]", path: str | Path) -> list[Path]:
    """Writes pictures to `path`; of several, the second is `name-1.png` and so on. Makes the folder.

    Raises `InvalidRequestError` for a name that says no format.
    """
    path = Path(path)
    if not path.suffix:
        raise InvalidRequestError(f"{path} says no format; expected a name such as {path}.png", "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path if i == 0 else path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(len(images))]
    for image, one in zip(images, paths, strict=True):
        image.save(one)
    return paths


def in_notebook() -> bool:
    """Whether this runs in Jupyter or the like, where a bar is drawn beside the cell."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class StepEvent(Protocol):
    """What a bar needs of a request's progress."""

    @property
    def request_id(self) -> str: ...

    @property
    def step(self) -> int: ...

    @property
    def num_steps(self) -> int: ...


class Ended(Protocol):
    """What is warned of."""

    error: Exception | None
    prompt_cut: Mapping[str, int] | None


def both(first: Callable[[T], None] | None, second: Callable[[T], None]) -> Callable[[T], None]:
    """One listener of two."""
    if first is None:
        return second

    def tell(event: T) -> None:
        first(event)
        second(event)

    return tell


def warn_of_failures(outputs: Sequence[Ended]) -> None:
    """One line that says how many requests failed and why the first did: an `error` is easily overlooked."""
    failed = [output for output in outputs if output.error is not None]
    if failed:
        first = f"{type(failed[0].error).__name__}: {failed[0].error}"
        logger.warning(
            "%d of %d requests failed (output.error says why); the first: %s", len(failed), len(outputs), first
        )


def warn_of_cuts(outputs: Sequence[Ended]) -> None:
    """One line where prompts are longer than the model reads: what it never read is not in the picture."""
    cut = [output.prompt_cut for output in outputs if output.prompt_cut is not None]
    if cut:
        logger.warning(
            "%d of %d prompts are longer than the model reads (output.prompt_cut); the first: %d tokens, %d are read",
            len(cut), len(outputs), cut[0]["tokens"], cut[0]["read"],
        )  # fmt: skip


class Bar:
    """A progress bar over the steps of many requests; does nothing unless `shown`."""

    def __init__(self, num_requests: int, *, shown: bool) -> None:
        self._steps: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._num_requests = num_requests
        self._bar: Any = None
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=num_requests, unit="request", bar_format=_FORMAT)

    @property
    def is_shown(self) -> bool:
        """Whether there is one."""
        return self._bar is not None

    def on_progress(self, event: StepEvent) -> None:
        """A step of a request."""
        with self._lock:
            self._steps[event.request_id] = (event.step, max(event.num_steps, 1))
            self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.n = round(sum(step / steps for step, steps in self._steps.values()), 2)
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.n = self._num_requests
            self._bar.refresh()
            self._bar.close()


_FORMAT = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
