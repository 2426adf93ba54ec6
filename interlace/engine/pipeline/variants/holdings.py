"""Things that can hold state, as they were, to look at again and to put back: names, containers, variables, numbers."""

import copy
import random
from collections import deque
from typing import Any, Protocol

import numpy as np
import torch

from interlace.engine.device.waits import DeviceWait
from interlace.engine.pipeline.variants.code import content_of
from interlace.engine.pipeline.variants.state import MISSING, same


class Holding(Protocol):
    """One thing that can hold state, as it was."""

    def changed(self) -> bool:
        """Whether it is no longer as it was."""
        ...

    def restore(self) -> None:
        """Put back what was there."""
        ...


class HeldNames:
    """Names in a namespace: all of them, or (globals) those that are named."""

    def __init__(self, names: dict[str, Any], only: frozenset[str] | None = None) -> None:
        self.names, self.only = names, only
        self.before = self._now()

    def _now(self) -> dict[str, Any]:
        if self.only is None:
            return self.names.copy()
        return {name: self.names.get(name, MISSING) for name in self.only}

    def changed(self) -> bool:
        now = self._now()
        return now.keys() != self.before.keys() or not all(same(now[name], self.before[name]) for name in now)

    def restore(self) -> None:
        for name in self._now().keys() | self.before.keys():
            value = self.before.get(name, MISSING)
            if value is MISSING:
                self.names.pop(name, None)
            else:
                self.names[name] = value


class HeldClass:
    """What a class holds for all of its objects."""

    def __init__(self, kind: type) -> None:
        self.kind, self.before = kind, data_of(kind)

    def changed(self) -> bool:
        now = data_of(self.kind)
        return now.keys() != self.before.keys() or not all(same(now[name], self.before[name]) for name in now)

    def restore(self) -> None:
        for name in data_of(self.kind).keys() - self.before.keys():
            delattr(self.kind, name)
        for name, value in self.before.items():
            if vars(self.kind).get(name, MISSING) is not value:
                setattr(self.kind, name, value)


def data_of(kind: type) -> dict[str, Any]:
    """What a class holds for all of its objects, but for methods."""
    return {name: value for name, value in vars(kind).items() if not name.startswith("__") and not callable(value)}


class Filling:
    """What a container holds, in its order."""

    def __init__(self, container: Any) -> None:
        self.container, self.before = container, container.copy()

    def changed(self) -> bool:
        if isinstance(self.container, deque):
            return not same(list(self.container), list(self.before))
        return not same(self.container, self.before)

    def restore(self) -> None:
        self.container.clear()
        if isinstance(self.container, (dict, set)):
            self.container.update(self.before)
        else:
            self.container.extend(self.before)


class HeldCell:
    """A variable of an enclosing function."""

    def __init__(self, cell: Any) -> None:
        self.cell, self.before = cell, content_of(cell)

    def changed(self) -> bool:
        return not same(content_of(self.cell), self.before)

    def restore(self) -> None:
        if self.before is not MISSING:
            self.cell.cell_contents = self.before


class Elements:
    """The numbers in a tensor or array."""

    def __init__(self, tensor: Any) -> None:
        self.tensor, self.before = tensor, tensor.clone() if isinstance(tensor, torch.Tensor) else tensor.copy()

    def changed(self) -> bool:
        if isinstance(self.tensor, torch.Tensor):
            if self.tensor.shape != self.before.shape:
                return True
            with DeviceWait("requests' code"):
                return not torch.equal(self.tensor, self.before)
        return not np.array_equal(self.tensor, self.before)

    def restore(self) -> None:
        with torch.no_grad():
            self.tensor[...] = self.before


class TorchNumbers:
    """A generator's place in its random numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.before = generator, generator.get_state()

    def changed(self) -> bool:
        return not torch.equal(self.generator.get_state(), self.before)

    def restore(self) -> None:
        self.generator.set_state(self.before)


class PythonNumbers:
    """The same of Python's and NumPy's."""

    def __init__(self, random_numbers: Any) -> None:
        self.numbers, self.before = random_numbers, copy.deepcopy(self._state(random_numbers))

    @staticmethod
    def _state(numbers: Any) -> Any:
        return numbers.getstate() if isinstance(numbers, random.Random) else numbers.bit_generator.state

    def changed(self) -> bool:
        return repr(self._state(self.numbers)) != repr(self.before)

    def restore(self) -> None:
        if isinstance(self.numbers, random.Random):
            self.numbers.setstate(self.before)
        else:
            self.numbers.bit_generator.state = self.before


class Unknowable:
    """An iterator, whose place nobody can tell."""

    def changed(self) -> bool:
        return True

    def restore(self) -> None:
        pass
