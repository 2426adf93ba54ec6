"""Which adapters requests of one model may name, and from which file each comes. Loads none."""

import threading
from collections.abc import Sequence
from pathlib import Path

from interlace.adapters import LoraChoice
from interlace.errors import InvalidRequestError, UnknownAdapterError
from interlace.extras import Extras
from interlace.models.adapters.files import LoraSource, check_name, own_sources, sources_in, wanted_sources
from interlace.models.adapters.lora import Lora


class LoraNames:
    """Enough where the model runs in other processes: there each loads its own. Safe in several threads.

    Raises `InvalidRequestError` for a folder that isn't there.
    """

    def __init__(self, model: str, extras: Extras) -> None:
        self._folder = None if extras.lora_dir is None else Path(extras.lora_dir).expanduser()
        if self._folder is not None and not self._folder.is_dir():
            raise InvalidRequestError(f"lora_dir is {extras.lora_dir!r}; expected a directory", "lora_dir")
        self._lock = threading.RLock()
        self._sources: dict[str, LoraSource] = {one.name: one for one in wanted_sources(model, extras.lora)}
        self._own = own_sources(model)

    @property
    def loras(self) -> dict[str, Lora]:
        """What is loaded in this process, by name."""
        return {}

    @property
    def names(self) -> list[str]:
        """Every name that a request may give, loaded or not."""
        with self._lock:
            return sorted({*self._sources, *self._own, *self._in_folder()})

    @property
    def offered(self) -> list[str]:
        """Those that were asked for when the model was loaded, or since."""
        with self._lock:
            return sorted({*self._sources, *self._in_folder()})

    def check(self, choices: Sequence[LoraChoice]) -> None:
        """Raises `UnknownAdapterError` for an unknown name, `InvalidRequestError` for a path that may not be read."""
        with self._lock:
            for choice in choices:
                self._source(choice)

    def bring(self, choice: LoraChoice) -> Lora:
        """Load what a request would name, without using it. Raises `InvalidRequestError` where that can't be."""
        raise InvalidRequestError(
            f"lora {choice.name!r} can't be loaded while running: the model is in several processes, each of which "
            "loads its own when a request names it; start with --lora or --lora-dir",
            "lora",
        )

    def unload(self, name: str) -> None:
        """Forget an adapter. Raises `UnknownAdapterError`, or `InvalidRequestError` where that can't be."""
        if name not in self.names:
            raise self._unknown(name)
        raise InvalidRequestError(f"lora {name!r} can't be unloaded: the model is in several processes", "lora_name")

    def _source(self, choice: LoraChoice) -> LoraSource:
        if choice.path is not None:
            return LoraSource(check_name(choice.name), str(self._inside(choice.path)))
        source = self._sources.get(choice.name) or self._own.get(choice.name) or self._in_folder().get(choice.name)
        if source is None:
            raise self._unknown(choice.name)
        return source

    def _inside(self, path: str) -> Path:
        """A path that a request names: only what lies under `lora_dir` may be read on a stranger's behalf."""
        if self._folder is None:
            text = f"lora's path is {path!r}: files can't be named by request here; start with --lora-dir"
            raise InvalidRequestError(text, "lora")
        root = self._folder.resolve()
        found = (root / path).resolve()
        if not found.is_relative_to(root) or not found.exists():
            raise InvalidRequestError(f"lora's path is {path!r}; expected one under --lora-dir", "lora")
        return found

    def _in_folder(self) -> dict[str, LoraSource]:
        return {} if self._folder is None else sources_in(self._folder)

    def _unknown(self, name: str) -> UnknownAdapterError:
        known = ", ".join(self.names) or "none"
        return UnknownAdapterError(f"unknown lora {name!r}; known are {known}")
