"""Refuses sizes that a model can't make before it is loaded, by what its small files say. Needs torch only where no
`interlace.json` says it all, and then only once a size is asked for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from interlace.errors import InvalidRequestError
from interlace.models.places import model_folder, pipeline_class_of, read_settings, small_files
from interlace.models.sizes.limits import check_limits
from interlace.request import SamplingParams

if TYPE_CHECKING:
    from interlace.models.sizes.rule import PipelineSizes

_NAMES = ("height", "width", "num_frames")


class SizeDoor:
    """The sizes of one model. `why_unknown` is None until a size was asked for of which nothing can be said."""

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

    def check(self, sampling: SamplingParams) -> None:
        """Raises `InvalidRequestError` for sizes that the model can't make, `ModelLoadError` for files that can't be
        read."""
        sizes = {name: size for name in _NAMES if (size := getattr(sampling, name)) is not None}
        if not sizes:
            return
        self._open()
        # A ControlNet is run by another pipeline than the model's own.
        key = (*sizes.items(), sampling.controlnet is None)
        if key not in self._verdicts:
            self._verdicts[key] = self._verdict(sizes, None if sampling.controlnet else self._rule)
        if (verdict := self._verdicts[key]) is not None:
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
        folder = self._folder()
        if folder is None:
            return
        self._limits = read_settings(folder / "interlace.json").get("limits", {})
        if "multiple_of" in self._limits:
            return
        from interlace.models.sizes.rule import PipelineSizes, UnknownRuleError

        try:
            self._rule = PipelineSizes.of(folder, self._pipeline_class)
        except UnknownRuleError as error:
            self.why_unknown = str(error)

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
