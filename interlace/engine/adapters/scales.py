"""How strongly IP-Adapters act, row by row: requests with different scales share a forward."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from interlace.engine.adapters.kinds import UnmixableError
from interlace.engine.calls.call import ModuleCall
from interlace.engine.pipeline.variants.scales import Scale


class RowScale:
    """A scale with a value of its own for each row of a forward, where diffusers has one number."""

    __hash__ = None  # type: ignore[assignment]  # as of a tensor: there is no one value

    def __init__(self, values: Sequence[float], rows: Sequence[int]) -> None:
        pairs = zip(values, rows, strict=True)
        self._column = torch.tensor([value for value, count in pairs for _ in range(count)], dtype=torch.float64)
        self._known: dict[Hashable, torch.Tensor] = {}  # by what it is multiplied with

    def __eq__(self, other: object) -> bool:
        """Whether every row has this value."""
        return isinstance(other, int | float) and bool(torch.eq(self._column, other).all())

    def __mul__(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [rows times n, ...], as torch multiplies it with a number: half precision is scaled in float32."""
        each, left = divmod(x.shape[0], len(self._column))
        if left or not each:
            raise UnmixableError(f"{x.shape[0]} entries for {len(self._column)} rows")
        wide = torch.promote_types(x.dtype, torch.float32)
        key = each, x.device, wide, x.ndim
        if key not in self._known:
            column = self._column.repeat_interleave(each).reshape(-1, *(1,) * (x.ndim - 1))
            self._known[key] = column.to(x.device, wide)
        return (x.to(wide) * self._known[key]).to(x.dtype)

    __rmul__ = __mul__


@contextmanager
def scaled(calls: Sequence[ModuleCall]) -> Iterator[None]:
    """Within, the module's forward is of these calls, one behind the other, each with its own scales."""
    told, rows = [call.scales for call in calls if call.scales is not None], [call.rows for call in calls]
    assert len(told) == len(calls)
    before = []
    for i, processor in enumerate(told[0].processors):
        names = vars(processor)  # past Module's own __setattr__: that is others' business
        before.append((names, names["scale"]))
        names["scale"] = _together([one.values[i] for one in told], rows)
    try:
        yield
    finally:
        for names, scale in before:
            names["scale"] = scale


def _together(values: Sequence[Scale], rows: Sequence[int]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        columns = zip(*values, strict=True)  # all are, as they are of one processor
        return [column[0] if len(set(column)) == 1 else RowScale(column, rows) for column in columns]
    return first if len(set(values)) == 1 else RowScale(values, rows)  # type: ignore[arg-type]
