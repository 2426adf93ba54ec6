"""Refuses sizes that a model can't make: before it is loaded by what its small files say, afterwards by what it holds.
Needs torch only where no `interlace.json` says it all, and then only once a size is asked for."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from interlace.errors import InvalidRequestError
from interlace.models.places import model_folder, pipeline_class_of, read_settings, small_files
from interlace.models.sizes.limits import check_limits
from interlace.request import SamplingParams

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel
    from interlace.models.sizes.rule import PipelineSizes

_NAMES = ("height", "width", "num_frames")
_MAX_KEPT = 1000  # verdicts; strangers may ask for any number of sizes


class SizeDoor:
    """The sizes of one model. `why_unknown` is None until a size was asked for of which nothing can be said. May be
    asked by many threads."""

    def __init__(
        self,
        model: str,
        *,
        pipeline_class: str | None = None,
        revision: str | None = None,
        fetch: bool = False,
        unknown: str | None = None,
    ) -> None:
        """`fetch`: whether the small files of a model that isn't on this machine may be downloaded. `unknown`: why its
        files don't say what will be run, where they don't."""
        self.why_unknown: str | None = None
        self._model, self._revision, self._fetch, self._unknown = model, revision, fetch, unknown
        self._pipeline_class = pipeline_class or pipeline_class_of(model)
        self._is_open = False
        self._limits: Mapping[str, int] = {}
        self._rule: PipelineSizes | None = None
        self._verdicts: dict[tuple[object, ...], InvalidRequestError | None] = {}
        self._lock = threading.Lock()

    def check(self, sampling: SamplingParams) -> None:
        """Raises `InvalidRequestError` for sizes that the model can't make, `ModelLoadError` for files that can't be
        read."""
        sizes = {name: size for name in _NAMES if (size := getattr(sampling, name)) is not None}
        if not sizes:
            return
        # A ControlNet is run by another pipeline than the model's own.
        key = (*sizes.items(), sampling.controlnet is None)
        with self._lock:
            self._open()
            if key not in self._verdicts:
                if len(self._verdicts) >= _MAX_KEPT:
                    self._verdicts.clear()
                self._verdicts[key] = self._verdict(sizes, None if sampling.controlnet else self._rule)
            verdict = self._verdicts[key]
        if verdict is not None:
            raise InvalidRequestError(str(verdict), verdict.param)

    def _verdict(self, sizes: Mapping[str, int], rule: "PipelineSizes | None") -> InvalidRequestError | None:
        try:
            check_limits(self._limits, sizes)
            if rule is not None:
                rule.check(sizes)
        except InvalidRequestError as error:
            return error
        return None

    def _open(self) -> None:
        if self._is_open:
            return
        self._is_open = True
        found = self._look()
        if found is None:
            return
        self._limits, make_rule = found
        if "multiple_of" in self._limits:
            return
        from interlace.models.sizes.rule import UnknownRuleError

        try:
            self._rule = make_rule()
        except UnknownRuleError as error:
            self.why_unknown = str(error)

    def _look(self) -> "tuple[Mapping[str, int], Callable[[], PipelineSizes]] | None":
        """The limits that the model's files say, and what makes its pipeline's rule; None where there are no files."""
        folder = self._folder()
        if folder is None:
            return None

        def make_rule() -> "PipelineSizes":
            from interlace.models.sizes.rule import PipelineSizes

            return PipelineSizes.of(folder, self._pipeline_class)

        return read_settings(folder / "interlace.json").get("limits", {}), make_rule

    def _folder(self) -> Path | None:
        if self._unknown is not None:
            self.why_unknown = self._unknown
            return None
        if (folder := model_folder(self._model)) is not None:
            return folder
        if os.path.isfile(os.path.expanduser(self._model)):  # noqa: PTH111, PTH113  Path's raise
            self.why_unknown = f"{self._model} is one file, which says it once it is loaded"
            return None
        try:
            return small_files(self._model, revision=self._revision, local_files_only=not self._fetch)
        except Exception:  # of the hub and the network; loading will tell
            self.why_unknown = f"{self._model} isn't on this machine yet"
            return None


class LoadedSizeDoor(SizeDoor):
    """The sizes of a model that is loaded, or of one without weights that stands for it. Keeps no weights."""

    def __init__(self, model: "LoadedModel") -> None:
        from interlace.models.sizes.hollow import hollowed

        super().__init__(model.name)
        self._limits, self._defaults = model.limits, model.defaults
        self._pipeline = hollowed(model.pipeline)

    def _look(self) -> "tuple[Mapping[str, int], Callable[[], PipelineSizes]]":
        from interlace.models.sizes.rule import PipelineSizes

        return self._limits, lambda: PipelineSizes(self._pipeline, self._defaults)
