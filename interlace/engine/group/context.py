"""Ulysses and ring attention: one forward whose tokens several ranks divide, by diffusers' plan for the model.

diffusers' own way leaves hooks on the modules for good. Here they are in place for one forward at a time, so that the
same module runs alone too, and nobody who looks at it between two forwards sees a change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import (
    ContextParallelSplitHook,
    ModuleForwardMetadata,
    _get_submodule_by_name,
)
from diffusers.models._modeling_parallel import ContextParallelOutput, ParallelConfig, gather_size_by_comm
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from interlace.engine.calls.packing.positions import withheld
from interlace.engine.group.config import GroupConfig
from interlace.errors import InvalidRequestError

Forward = Callable[..., Any]


def parallel_config(config: GroupConfig, rank: int, device: torch.device) -> ParallelConfig:
    """diffusers' settings for this rank; to be called by all ranks at once.

    Raises `InvalidRequestError` for ring attention on a CPU.
    """
    if config.ring_degree > 1 and device.type == "cpu":
        raise InvalidRequestError(
            "ring_degree: ring attention needs kernels that return the log-sum-exp, and there are none for a CPU; use "
            "--ulysses-degree",
            "ring_degree",
        )
    context = ContextParallelConfig(
        ring_degree=config.ring_degree,
        ulysses_degree=config.ulysses_degree,
        ulysses_anything=config.ring_degree == 1,  # any number of tokens and heads
        ring_anything=config.ulysses_degree == 1,
    )
    shape = (config.rows_degree, config.ring_degree, config.ulysses_degree)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("rows", "ring", "ulysses"))
    parallel = ParallelConfig(context_parallel_config=context)
    parallel.setup(rank, config.context_degree, device, mesh=mesh["ring", "ulysses"])
    for part in (context._ring_mesh, context._ulysses_mesh, context._flattened_mesh):
        _set_pg_timeout(timedelta(seconds=config.timeout_s), part.get_group())  # a mesh has torch's half hour
    return parallel


class ContextParallel:
    """One module's plan, ready to be put in place. Raises `InvalidRequestError` for a module without one."""

    def __init__(self, name: str, module: torch.nn.Module, config: ParallelConfig) -> None:
        plan: Mapping[str, Any] | None = getattr(module, "_cp_plan", None)
        if plan is None:
            raise InvalidRequestError(
                f"{name} is a {type(module).__name__}, for which diffusers has no context-parallel plan; use "
                "--rows-degree, or more replicas, in place of --ulysses-degree and --ring-degree",
                "ulysses_degree",
            )
        if any(getattr(part, "_compiled_call_impl", None) is not None for part in module.modules()):
            raise InvalidRequestError(f"{name} is compiled; leave --compile out beside --ulysses-degree", "compile")
        self.module = module
        self._config = config
        self._around_all: list[Any] = []
        self._around: list[tuple[torch.nn.Module, Any]] = []
        for path, entry in plan.items():
            found = _get_submodule_by_name(module, path)
            for part in found if isinstance(found, list) else [found]:
                self._add(part, entry)
        processors = [part.processor for part in module.modules() if hasattr(part, "processor")]
        self._processors = {id(one): one for one in processors if hasattr(one, "_parallel_config")}.values()

    def _add(self, part: torch.nn.Module, entry: Any) -> None:
        hook: Any
        if isinstance(entry, Mapping):
            hook = ContextParallelSplitHook(dict(entry), self._config.context_parallel_config)
            hook.module_forward_metadata = ModuleForwardMetadata(_cls=type(part))
        else:
            outputs = list(entry) if isinstance(entry, (list, tuple)) else [entry]
            hook = _Gather(outputs, self._config.context_parallel_config._flattened_mesh.get_group())
        if part is self.module:
            self._around_all.append(hook)
        else:
            self._around.append((part, hook))

    def run(self, forward: Forward, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """This rank's part of `forward(*args, **kwargs)`; every rank gets the whole output."""
        for hook in self._around_all:
            args, kwargs = hook.pre_forward(self.module, *args, **kwargs)
        with self._in_place(), withheld():
            output = forward(*args, **kwargs)
        for hook in reversed(self._around_all):
            output = hook.post_forward(self.module, output)
        return output

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        with ExitStack() as stack:
            for processor in self._processors:
                before = processor._parallel_config
                processor._parallel_config = self._config
                stack.callback(setattr, processor, "_parallel_config", before)
            for part, hook in self._around:
                stack.enter_context(_hooked(part, hook))
            yield


class _Gather:
    """Puts outputs together whose parts may differ in length, which gloo's own gathering refuses."""

    def __init__(self, outputs: Sequence[ContextParallelOutput | None], group: dist.ProcessGroup) -> None:
        self._outputs, self._group = outputs, group

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    def post_forward(self, module: torch.nn.Module, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return self._whole(output, self._outputs[0])
        return tuple(self._whole(part, plan) for part, plan in zip(output, self._outputs, strict=True))

    def _whole(self, part: torch.Tensor, plan: ContextParallelOutput | None) -> torch.Tensor:
        if plan is None:
            return part
        dim = plan.gather_dim
        lengths = gather_size_by_comm(part.shape[dim], self._group)
        padded = part.new_zeros([max(lengths) if i == dim else size for i, size in enumerate(part.shape)])
        padded.narrow(dim, 0, part.shape[dim]).copy_(part)
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self._group)
        return torch.cat([one.narrow(dim, 0, length) for one, length in zip(parts, lengths, strict=True)], dim)


@contextmanager
def _hooked(part: torch.nn.Module, hook: Any) -> Iterator[None]:
    before = part.__dict__.get("forward")
    forward = part.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(part, *args, **kwargs)
        return hook.post_forward(part, forward(*args, **kwargs))

    part.__dict__["forward"] = hooked
    try:
        yield
    finally:
        if before is None:
            del part.__dict__["forward"]
        else:
            part.__dict__["forward"] = before
