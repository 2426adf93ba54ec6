"""Intercepts the modules of a pipeline: a strand's calls go to the engine, everybody else's go straight through."""

import functools
from typing import Any

import torch
from diffusers import DiffusionPipeline
from greenlet import getcurrent

from interlace.engine.call import Target
from interlace.engine.strand import Strand
from interlace.engine.view import modules_of

_METHODS = ("forward", "encode", "decode", "generate", "get_text_features", "get_image_features")


class Baseline:
    """What of a module must be as it was for its calls to be shared: dtype, attention processors, LoRA scales.

    A pipeline that changes these (PAG's processors, SDXL's VAE upcast, a text encoder's LoRA scale) runs its calls
    straight through, without a pause, until it has put everything back: no other request ever sees the change.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        parts = list(module.modules())
        self._parameter = next(module.parameters(), None)
        self._dtype = None if self._parameter is None else self._parameter.dtype
        self._processors = [(part, part.processor) for part in parts if hasattr(part, "processor")]
        scaled = [part for part in parts if isinstance(getattr(part, "scaling", None), dict)]
        self._scales = [(part, dict(part.scaling)) for part in scaled]
        self._module = module

    def holds(self) -> bool:
        """True when the module is as it was."""
        if self._parameter is not None and self._parameter.dtype != self._dtype:
            return False
        for part, processor in self._processors:
            if part.processor is not processor:
                return False
        return all(part.scaling == scales for part, scales in self._scales)

    def restore(self) -> None:
        """Put back what a request that failed half way left changed."""
        if self._dtype is not None and self._parameter is not None and self._parameter.dtype != self._dtype:
            self._module.to(dtype=self._dtype)
        for part, processor in self._processors:
            part.processor = processor
        for part, scales in self._scales:
            part.scaling.update(scales)


class Interception:
    """Patches the modules of `pipeline` on their instances; `close()` leaves them as they were."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.baselines: dict[str, Baseline] = {}
        self._patched: list[tuple[torch.nn.Module, str, Any]] = []
        self.targets: list[Target] = []
        for component, module in modules_of(pipeline).items():
            self.baselines[component] = Baseline(module)
            for method in _METHODS:
                if callable(getattr(module, method, None)):
                    self._patch(component, module, method)

    def _patch(self, component: str, module: torch.nn.Module, method: str) -> None:
        original = getattr(module, method)
        target = Target.of(component, module, method, original)
        baseline = self.baselines[component]

        @functools.wraps(original)
        def intercepted(*args: Any, **kwargs: Any) -> Any:
            strand = getcurrent()
            if not isinstance(strand, Strand):
                return original(*args, **kwargs)
            return strand.call(target, baseline, args, kwargs)

        self._patched.append((module, method, vars(module).get(method)))
        self.targets.append(target)
        module.__dict__[method] = intercepted

    def restore_baselines(self) -> None:
        """Undo what a request that ended in the middle may have changed in shared modules."""
        for baseline in self.baselines.values():
            if not baseline.holds():
                baseline.restore()

    def close(self) -> None:
        """Take the patches back; does nothing the second time."""
        for module, method, previous in self._patched:
            if previous is None:
                module.__dict__.pop(method, None)
            else:
                module.__dict__[method] = previous
        self._patched.clear()
