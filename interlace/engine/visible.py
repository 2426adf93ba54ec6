"""The accelerators that this process may use, by the variable of their type. Imports torch where the environment
doesn't say; devices of types that have no variable (MPS) can't be dealt out to processes."""

from collections.abc import Mapping
from typing import NamedTuple

VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES"}


class Accelerators(NamedTuple):
    """`names` are as `variable` has them; a process that is given some there calls them `kind:0` and on."""

    kind: str = "cuda"
    names: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        return VARIABLES[self.kind]

    def given(self, environment: Mapping[str, str]) -> str:
        """What the environment says of them, for an error's end."""
        return f" ({self.variable}={environment[self.variable]})" if self.variable in environment else ""


def accelerators(environment: Mapping[str, str]) -> Accelerators:
    """Those that the environment names, or else those that torch sees; none where there are none."""
    for kind, variable in VARIABLES.items():
        if variable in environment:
            return Accelerators(kind, _names(environment[variable]))
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in VARIABLES:
        return Accelerators()
    return Accelerators(found.type, tuple(map(str, range(torch.accelerator.device_count()))))


def _names(visible: str) -> tuple[str, ...]:
    names = (name.strip() for name in visible.split(","))
    return tuple(name for name in names if name and name != "-1")
