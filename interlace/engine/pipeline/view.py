"""A private view of a pipeline for one request: its own scheduler and helper objects over the shared modules."""

import copy
import threading
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.variants.code import ATOMS, may_write
from interlace.engine.pipeline.variants.owner import stock_class
from interlace.engine.pipeline.variants.state import changes, is_plain, look

# Stateless in use (tokenizers: within one thread), costly to copy.
_SHARED_TYPES = (PreTrainedTokenizerBase, ProcessorMixin, BaseImageProcessor, FeatureExtractionMixin, torch.Tensor)
# accelerate's offload bookkeeping: one for all views.
_SHARED_NAMES = frozenset({"_all_hooks", "_internal_dict", "hf_device_map"})


class ViewFactory:
    """Makes views of one pipeline. Whatever is a module, or reachable from one, stays shared."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._keep: dict[int, Any] = {}
        self._tokenizers: dict[int, tuple[Hashable, Any, Any]] = {}  # by the original's id: mark, original, copy
        self._classes: dict[int, type[DiffusionPipeline]] = {}  # by the pipeline's id
        self._parts: dict[int, tuple[Any, Seen, Any]] = {}  # by the part's id: the part, as it was seen, its copy
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """The pipeline's modules have changed."""
        self._keep = {id(part): part for module in modules_of(self._pipeline).values() for part in module.modules()}
        self._classes.clear()

    def parts(self) -> "Parts":
        """What requests have copies of, as it is now: schedulers, processors of images, plain attributes."""
        with self._lock:
            return {id(one): self._parts_of(one) for one in pipelines_of(self._pipeline)}

    def make(
        self, on_step: Callable[[int, int], None], parts: "Parts | None" = None, views: dict[int, object] | None = None
    ) -> DiffusionPipeline:
        """A view that reports its denoising steps to `on_step(done, total)`, with `parts` as they were at submission.

        `views` gets this view and those of inner pipelines by their originals' ids.
        """
        views = {} if views is None else views
        made = self._view(self._pipeline, dict(self._keep), on_step, self.parts() if parts is None else parts, {})
        views.update(made[1])
        return made[0]

    def _parts_of(self, pipeline: DiffusionPipeline) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in list(vars(pipeline).items()):
            if name in _SHARED_NAMES or isinstance(value, (torch.nn.Module, DiffusionPipeline, *_SHARED_TYPES)):
                continue
            found[name] = self._pristine(value) if is_plain(value) else value
        return found

    def _pristine(self, part: Any) -> Any:
        """A copy of a part as it is now: one for all requests that found it so."""
        known = self._parts.get(id(part))
        if known is not None and known[0] is part and not any(changes(known[1])):
            return known[2]
        copied = _copied(part, dict(self._keep) | {id(one): one for one in pipelines_of(self._pipeline)})
        self._parts[id(part)] = (part, look(part), copied)
        return copied

    def _view(
        self,
        pipeline: DiffusionPipeline,
        memo: dict[int, Any],
        on_step: Callable[[int, int], None],
        parts: "Parts",
        made: dict[int, DiffusionPipeline],
    ) -> tuple[DiffusionPipeline, dict[int, DiffusionPipeline]]:
        kind: Any = stock_class(pipeline)
        view = kind.__new__(kind)
        view.__dict__.update(vars(pipeline))
        memo[id(pipeline)] = made[id(pipeline)] = view
        own = parts.get(id(pipeline)) or self._parts_of(pipeline)
        for name, value in vars(pipeline).items():
            if isinstance(value, DiffusionPipeline):
                known = made.get(id(value))
                view.__dict__[name] = known or self._view(value, memo, on_step, parts, made)[0]
            elif isinstance(value, (PreTrainedTokenizerBase, ProcessorMixin)):
                view.__dict__[name] = self._tokenizer(value)
        for name, value in own.items():
            view.__dict__[name] = _copied(value, memo)
        view.__dict__["progress_bar"] = lambda iterable=None, total=None, **_: StepBar(iterable, total, on_step)
        view.__dict__["maybe_free_model_hooks"] = lambda: None  # offloading waits until no request needs the modules
        if id(pipeline) not in self._classes:
            self._classes[id(pipeline)] = _class_of_views(pipeline)
        view.__class__ = self._classes[id(pipeline)]
        return view, made

    def _tokenizer(self, tokenizer: Any) -> Any:
        """One copy for an engine, whose requests share a thread; another one once its owner has changed it."""
        mark = _mark_of(tokenizer)
        known = self._tokenizers.get(id(tokenizer))
        if known is None or known[0] != mark or known[1] is not tokenizer:
            known = self._tokenizers[id(tokenizer)] = (mark, tokenizer, copy.deepcopy(tokenizer))
        return known[2]


Parts = dict[int, dict[str, Any]]  # by the pipeline's id, by name
Seen = list[tuple[Any, Any, bool]]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy; the thing itself where there can be none (a lock, a file)."""
    try:
        copied = copy.deepcopy(value, memo)
    except Exception:
        return value
    for name, function in vars(copied).items() if is_plain(copied) and copied is not value else ():
        if isinstance(function, types.FunctionType) and function.__closure__:
            copied.__dict__[name] = _rebound(function, memo)
    return copied


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """A function that somebody put on an object, and that knows it by name: the same for the object's copy.

    One that may remember (it counts steps) has variables of its own.
    """
    remembers = may_write(function)
    cells = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            cells.append(cell)
            continue
        if id(content) in memo and memo[id(content)] is not content:
            cell = types.CellType(memo[id(content)])
        elif isinstance(content, types.MethodType) and memo.get(id(content.__self__), content) is not content.__self__:
            owner = memo.get(id(content.__self__))
            cell = cell if owner is None else types.CellType(types.MethodType(content.__func__, owner))
        elif remembers and isinstance(content, (*ATOMS, dict, list, set)):
            cell = types.CellType(_copied(content, memo))
        cells.append(cell)
    new = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    new.__dict__.update(function.__dict__)
    new.__kwdefaults__ = function.__kwdefaults__
    return new


def _mark_of(tokenizer: Any) -> Hashable:
    """Differs once tokens were added or taken away, or padding and cutting were set otherwise."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    settings = tuple(getattr(inner, name, None) for name in ("padding_side", "truncation_side", "model_max_length"))
    added = getattr(inner, "added_tokens_decoder", {})
    return settings, tuple((index, str(token)) for index, token in added.items()), _token_map(inner)


def _token_map(tokenizer: Any) -> Hashable:
    """Which tokens stand for several (textual inversion)."""
    several = getattr(tokenizer, "token_map", None)
    return repr(several) if several else None


def _class_of_views(pipeline: DiffusionPipeline) -> type[DiffusionPipeline]:
    """The pipeline's class, with devices found once: stock code walks through all modules for them, for milliseconds.

    A pipeline that offloads keeps its own way.
    """
    kind = stock_class(pipeline)
    if getattr(pipeline, "_all_hooks", None):
        return kind
    device, execution_device = pipeline.device, pipeline._execution_device
    fixed = {"device": property(lambda _: device), "_execution_device": property(lambda _: execution_device)}
    return type(kind.__name__, (kind,), {**fixed, "__module__": kind.__module__, "__qualname__": kind.__qualname__})


class StepBar(tqdm):
    """A silent progress bar that tells `on_step` how far a pipeline's denoising loop is."""

    def __init__(self, iterable: object, total: int | None, on_step: Callable[[int, int], None]) -> None:
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


def modules_of(pipeline: DiffusionPipeline | Routine) -> dict[str, torch.nn.Module]:
    """The modules that a pipeline holds, its inner pipelines' (Kandinsky) included, each once, by component name."""
    if isinstance(pipeline, Routine):
        return pipeline.modules
    found: dict[str, torch.nn.Module] = {}
    for part in pipelines_of(pipeline):
        for name, held in vars(part).items():
            for value in _each(held):
                if all(value is not known for known in found.values()):
                    found[name if name not in found else f"{name}_{len(found)}"] = value
    return found


def _each(value: Any) -> list[torch.nn.Module]:
    """A component; of several ControlNets in one (`MultiControlNetModel`) each, for it only calls one after another."""
    if not isinstance(value, torch.nn.Module):
        return []
    nets = getattr(value, "nets", None)
    return list(nets) if "Multi" in type(value).__name__ and isinstance(nets, torch.nn.ModuleList) else [value]


def pipelines_of(pipeline: DiffusionPipeline) -> list[DiffusionPipeline]:
    """The pipeline, then those that it holds, each once."""
    found = [pipeline]
    for part in found:  # grows on the way
        inner = (value for value in vars(part).values() if isinstance(value, DiffusionPipeline))
        found += [value for value in inner if all(value is not known for known in found)]
    return found
