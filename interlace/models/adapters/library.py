"""The adapters that requests of one model may name: loaded when they are first asked for, the least used leave.

Between the names of requests and the engine's adapters. Safe in several threads. Knows nothing of HTTP or rows.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from interlace.adapters import LoraChoice
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError
from interlace.extras import Extras
from interlace.models.adapters.files import LoraSource, check_name, file_hash
from interlace.models.adapters.lora import Lora, load_lora, remove_lora
from interlace.models.adapters.names import LoraNames
from interlace.units import show_bytes


@dataclass
class _Loaded:
    lora: Lora
    users: int = 0  # requests that run with it
    leaving: bool = False  # unloaded, as soon as nobody uses it


class LoraLibrary(LoraNames):
    """`loras` are those that are loaded, by name. Raises `InvalidRequestError` for one of `extras` that can't be.

    An adapter is called NAME_HASH in the pipeline, so that another file under the same name is another adapter.
    """

    def __init__(self, model: str, pipeline: DiffusionPipeline, extras: Extras, engine: Engine) -> None:
        super().__init__(model, extras)
        self._pipeline, self._engine, self._max = pipeline, engine, extras.max_loras
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._hashes: dict[str, str] = {}
        for source in list(self._sources.values()):
            self.load(source)

    @property
    def loras(self) -> dict[str, Lora]:
        """What is loaded now, by name."""
        with self._lock:
            return {name: one.lora for name, one in self._loaded.items() if not one.leaving}

    def hash_of(self, name: str) -> str | None:
        """The SHA-256 of an adapter's file; None of one that was never loaded."""
        return self._hashes.get(name)

    def load(self, source: LoraSource) -> Lora:
        """Load an adapter, or make it the newest. Raises `InvalidRequestError`; then nothing has changed."""
        check_name(source.name)
        with self._lock:
            path = source.find()
            known = self._loaded.get(source.name)
            if known is not None and known.lora.path == str(path) and known.lora.sha256 == file_hash(path):
                known.leaving = False
                self._sources[source.name] = source
                self._loaded.move_to_end(source.name)
                return known.lora
            if known is not None and known.users:
                text = f"lora {source.name!r} is in use by {known.users} requests; load the file under another name"
                raise InvalidRequestError(text, "lora")
            inner = f"{source.name}_{file_hash(path)[:8]}"
            with self._engine.paused():
                lora = load_lora(self._pipeline, source.name, path, inner)
                if (room := self._engine.weights_changed(lora.num_bytes)) is not None and room < 0:
                    self._engine.weights_changed(-lora.num_bytes)
                    remove_lora(self._pipeline, inner)
                    text = f"lora {source.name!r} takes {show_bytes(lora.num_bytes)}, which the memory budget lacks"
                    raise InvalidRequestError(f"{text}; raise it, or lower --max-loras", "lora")
            if known is not None:
                self._remove(source.name)
            self._sources[source.name] = source
            self._loaded[source.name], self._hashes[source.name] = _Loaded(lora), lora.sha256
            self._shrink(keep=source.name)
            return lora

    def bring(self, choice: LoraChoice) -> Lora:
        """Load what a request would name, without using it. Raises as `take` does."""
        with self._lock:
            return self.load(self._source(choice))

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that run with it end first. Raises `UnknownAdapterError`."""
        with self._lock:
            if name not in self._sources and name not in self._loaded:
                raise self._unknown(name)
            self._sources.pop(name, None)
            if (loaded := self._loaded.get(name)) is not None:
                loaded.leaving = True
                self._remove_left()

    def needs_loading(self, choices: Sequence[LoraChoice]) -> bool:
        """Whether one of these must be read from disk first."""
        with self._lock:
            return any(one.name not in self._loaded or one.path is not None for one in choices)

    def take(self, choices: Sequence[LoraChoice]) -> tuple[dict[str, float], Callable[[], None]]:
        """The engine's adapters for a request, and what to call when it has ended.

        Raises `UnknownAdapterError` for a name that isn't known, `InvalidRequestError` for a file that doesn't fit.
        """
        with self._lock:
            taken: list[_Loaded] = []
            try:
                for choice in choices:
                    taken.append(self._take(choice))
            except BaseException:
                self._give_back(taken)
                raise
            pairs = zip(choices, taken, strict=True)
            adapters = {f"{one.lora.name}_{one.lora.sha256[:8]}": choice.scale for choice, one in pairs}
        return adapters, lambda: self._give_back(taken)

    def _take(self, choice: LoraChoice) -> _Loaded:
        source = self._source(choice)
        if choice.name not in self._loaded or (choice.path is not None and self._sources.get(choice.name) != source):
            self.load(source)
        loaded = self._loaded[choice.name]
        self._loaded.move_to_end(choice.name)
        loaded.users += 1
        return loaded

    def _give_back(self, taken: Sequence[_Loaded]) -> None:
        with self._lock:
            for one in taken:
                one.users -= 1
            self._remove_left()
            self._shrink()

    def _remove_left(self) -> None:
        for name in [name for name, one in self._loaded.items() if one.leaving and not one.users]:
            self._remove(name)

    def _shrink(self, keep: str | None = None) -> None:
        """Those that requests run with stay, however many they are."""
        idle = [name for name, one in self._loaded.items() if not one.users and name != keep]
        for name in idle[: max(len(self._loaded) - self._max, 0)]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        lora = self._loaded.pop(name).lora
        with self._engine.paused():
            remove_lora(self._pipeline, f"{name}_{lora.sha256[:8]}")
            self._engine.weights_changed(-lora.num_bytes)
