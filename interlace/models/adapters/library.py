"""The adapters that requests of one model may name: loaded when they are first asked for, the least used leave.

Between the names of requests and the engine's adapters. Safe in several threads. Knows nothing of HTTP or rows.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from interlace.adapters import LoraChoice
from interlace.engine.engine import Engine
from interlace.errors import EngineClosedError, EngineDeadError, InvalidRequestError
from interlace.extras import Extras
from interlace.models.adapters.files import LoraSource, check_name, file_hash
from interlace.models.adapters.lora import Lora, LoraFile, load_lora, read_lora, remove_lora
from interlace.models.adapters.names import LoraNames
from interlace.units import show_bytes


@dataclass
class _Loaded:
    lora: Lora
    inner: str  # what it is called in the pipeline: another file under the same name is another adapter
    users: int = 0  # requests that run with it
    leaving: bool = False  # unloaded, as soon as nobody uses it


class LoraLibrary(LoraNames):
    """`loras` are those that are loaded, by name. Raises `InvalidRequestError` for one of `extras` that can't be.

    One thread at a time loads or removes, and may wait for a forward to end; nobody who only asks or takes what is
    loaded waits for that.
    """

    def __init__(self, model: str, pipeline: DiffusionPipeline, extras: Extras, engine: Engine) -> None:
        super().__init__(model, extras)
        self._pipeline, self._engine, self._max = pipeline, engine, extras.max_loras
        self._loading = threading.RLock()  # taken before `_lock`, never after it
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
        return self._load(source).lora

    def bring(self, choice: LoraChoice) -> Lora:
        """Load what a request would name, without using it. Raises as `take` does."""
        return self.load(self._source_of(choice))

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that run with it end first. Raises `UnknownAdapterError`."""
        with self._lock:
            if name not in self._sources and name not in self._loaded:
                raise self._unknown(name)
            self._sources.pop(name, None)
            if name in self._loaded:
                self._loaded[name].leaving = True
        self._shrink()

    def needs_loading(self, choices: Sequence[LoraChoice]) -> bool:
        """Whether one of these must be read from disk first."""
        with self._lock:
            return any(one.name not in self._loaded or one.path is not None for one in choices)

    def take(self, choices: Sequence[LoraChoice]) -> tuple[dict[str, float], Callable[[], None]]:
        """The engine's adapters for a request, and what to call when it has ended.

        Raises `UnknownAdapterError` for a name that isn't known, `InvalidRequestError` for a file that doesn't fit.
        """
        taken: list[_Loaded] = []
        try:
            for choice in choices:
                taken.append(self._take(choice))
        except BaseException:
            self._give_back(taken)
            raise
        adapters = {one.inner: choice.scale for choice, one in zip(choices, taken, strict=True)}
        return adapters, lambda: self._give_back(taken)

    def _take(self, choice: LoraChoice) -> _Loaded:
        with self._lock:
            source, loaded = self._source_of(choice), self._loaded.get(choice.name)
            if loaded is not None and (choice.path is None or self._sources.get(choice.name) == source):
                self._loaded.move_to_end(choice.name)
                loaded.users += 1
                return loaded
        return self._load(source, users=1)

    def _load(self, source: LoraSource, users: int = 0) -> _Loaded:
        """`users` of it more than there are."""
        check_name(source.name)
        with self._loading:
            path = source.find()
            digest = file_hash(path)
            with self._lock:
                known = self._loaded.get(source.name)
                if known is not None and known.lora.sha256 == digest:
                    return self._kept(source, known, users)
                if known is not None and known.users:
                    text = f"lora {source.name!r} is in use by {known.users} requests; load the file under another name"
                    raise InvalidRequestError(text, "lora")
                self._loaded.pop(source.name, None)  # whoever wants it now waits for the new one
            try:
                loaded = self._placed(read_lora(source.name, path, digest))
            except BaseException:
                if known is not None:
                    with self._lock:
                        self._loaded[source.name] = known
                raise
            if known is not None:
                self._remove(known)
            with self._lock:
                self._kept(source, loaded, users)
            self._shrink(keep=source.name)
            return loaded

    def _kept(self, source: LoraSource, loaded: _Loaded, users: int) -> _Loaded:
        loaded.leaving = False
        loaded.users += users
        self._sources[source.name], self._hashes[source.name] = source, loaded.lora.sha256
        self._loaded[source.name] = loaded
        self._loaded.move_to_end(source.name)
        return loaded

    def _placed(self, file: LoraFile) -> _Loaded:
        """In the pipeline; what is read was read before, while forwards ran."""
        inner = f"{file.name}_{file.sha256[:8]}"
        with self._engine.paused():
            lora = load_lora(self._pipeline, file, inner)
            if (room := self._engine.weights_changed(lora.num_bytes)) is not None and room < 0:
                self._engine.weights_changed(-lora.num_bytes)
                remove_lora(self._pipeline, inner)
                text = f"lora {file.name!r} takes {show_bytes(lora.num_bytes)}, which the memory budget lacks"
                raise InvalidRequestError(f"{text}; raise it, or lower --max-loras", "lora")
        return _Loaded(lora, inner)

    def _source_of(self, choice: LoraChoice) -> LoraSource:
        with self._lock:
            return self._source(choice)

    def _give_back(self, taken: Sequence[_Loaded]) -> None:
        with self._lock:
            for one in taken:
                one.users -= 1
        self._shrink()

    def _shrink(self, keep: str | None = None) -> None:
        """Those that are to leave do, and the least used beyond the most that may stay. Those that requests run with
        stay, however many they are."""
        if not self._surplus(keep):
            return
        with self._loading:
            with self._lock:
                gone = [self._loaded.pop(name) for name in self._surplus(keep)]
            for one in gone:
                self._remove(one)

    def _surplus(self, keep: str | None) -> list[str]:
        with self._lock:
            idle = {name: one.leaving for name, one in self._loaded.items() if not one.users and name != keep}
            leaving = [name for name, leaves in idle.items() if leaves]
            staying = [name for name, leaves in idle.items() if not leaves]
            return leaving + staying[: max(len(self._loaded) - len(leaving) - self._max, 0)]

    def _remove(self, gone: _Loaded) -> None:
        with suppress(EngineClosedError, EngineDeadError), self._engine.paused():  # then the pipeline is nobody's
            remove_lora(self._pipeline, gone.inner)
            self._engine.weights_changed(-gone.lora.num_bytes)
