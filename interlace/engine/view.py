"""A private view of a pipeline for one request: its own scheduler and helper objects over the shared modules."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

# Stateless in use (tokenizers: within one thread), costly to copy.
_SHARED_TYPES = (PreTrainedTokenizerBase, ProcessorMixin, BaseImageProcessor, FeatureExtractionMixin, torch.Tensor)
# accelerate's offload bookkeeping: one for all views.
_SHARED_NAMES = frozenset({"_all_hooks", "_internal_dict", "hf_device_map"})


class ViewFactory:
    """Makes views of one pipeline. Whatever is a module, or reachable from one, stays shared."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._keep = {id(part): part for module in modules_of(pipeline).values() for part in module.modules()}
        self._own = {id(part): copy.deepcopy(part) for part in _tokenizers_of(pipeline)}
        self._classes: dict[int, type[DiffusionPipeline]] = {}  # by the pipeline's id

    def make(self, on_step: Callable[[int, int], None]) -> DiffusionPipeline:
        """A view that reports its denoising steps to `on_step(done, total)`."""
        return self._view(self._pipeline, dict(self._keep), on_step)

    def _view(
        self, pipeline: DiffusionPipeline, memo: dict[int, Any], on_step: Callable[[int, int], None]
    ) -> DiffusionPipeline:
        view = copy.copy(pipeline)
        memo[id(pipeline)] = view
        for name, value in vars(pipeline).items():
            if isinstance(value, DiffusionPipeline):
                view.__dict__[name] = memo[id(value)] if id(value) in memo else self._view(value, memo, on_step)
            elif id(value) in self._own:
                view.__dict__[name] = self._own[id(value)]
            elif name not in _SHARED_NAMES and not isinstance(value, (torch.nn.Module, *_SHARED_TYPES)):
                view.__dict__[name] = copy.deepcopy(value, memo)
        view.__dict__["progress_bar"] = lambda iterable=None, total=None: StepBar(iterable, total, on_step)
        view.__dict__["maybe_free_model_hooks"] = lambda: None  # offloading waits until no request needs the modules
        if id(pipeline) not in self._classes:
            self._classes[id(pipeline)] = _class_of_views(pipeline)
        view.__class__ = self._classes[id(pipeline)]
        return view


def _class_of_views(pipeline: DiffusionPipeline) -> type[DiffusionPipeline]:
    """The pipeline's class, with devices found once: stock code walks through all modules for them, for milliseconds.

    A pipeline that offloads keeps its own way.
    """
    kind = type(pipeline)
    if getattr(pipeline, "_all_hooks", None):
        return kind
    device, execution_device = pipeline.device, pipeline._execution_device
    fixed = {"device": property(lambda _: device), "_execution_device": property(lambda _: execution_device)}
    return type(kind.__name__, (kind,), {**fixed, "__module__": kind.__module__, "__qualname__": kind.__qualname__})


class StepBar(tqdm):
    """A silent progress bar that tells `on_step` how far a pipeline's denoising loop is."""

    def __init__(self, iterable: Any, total: int | None, on_step: Callable[[int, int], None]) -> None:
        super().__init__(iterable, total=total, disable=True)
        self._total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else 0
        self._on_step, self._done = on_step, 0

    def update(self, n: float | None = 1) -> None:
        self._done += int(n or 0)
        self._on_step(self._done, self._total)

    def __iter__(self) -> Iterator[Any]:
        for item in () if self.iterable is None else self.iterable:
            yield item
            self.update()


def modules_of(pipeline: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """The modules that a pipeline holds, its inner pipelines' (Kandinsky) included, each once, by component name."""
    found: dict[str, torch.nn.Module] = {}
    for part in _pipelines_of(pipeline):
        for name, value in vars(part).items():
            if isinstance(value, torch.nn.Module) and all(value is not known for known in found.values()):
                found[name if name not in found else f"{name}_{len(found)}"] = value
    return found


def _tokenizers_of(pipeline: DiffusionPipeline) -> list[Any]:
    """Tokenizers pad and cut as their last call wanted, while they run: whoever uses the pipeline has its own."""
    values = [value for part in _pipelines_of(pipeline) for value in vars(part).values()]
    return [value for value in values if isinstance(value, (PreTrainedTokenizerBase, ProcessorMixin))]


def _pipelines_of(pipeline: DiffusionPipeline) -> list[DiffusionPipeline]:
    """The pipeline, then those that it holds, each once."""
    found = [pipeline]
    for part in found:  # grows on the way
        inner = (value for value in vars(part).values() if isinstance(value, DiffusionPipeline))
        found += [value for value in inner if all(value is not known for known in found)]
    return found
