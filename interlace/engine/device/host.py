"""Small host tensors to the device, and answers from it, without waiting: copies are queued, through pinned memory."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from interlace.engine import accelerator
from interlace.engine.device.streams import has_streams, recorded
from interlace.engine.device.waits import DeviceWait


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`; torch keeps the pinned memory until the copy has been made."""
    if has_streams(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`torch.tensor(values, device=device)`, for which the host need not wait."""
    return sent(torch.tensor(values, dtype=dtype), device)


def fetched(tensor: torch.Tensor) -> torch.Tensor:
    """A finished tensor on the host, copied beside what is queued on the device and not behind it. Waits for that."""
    device = tensor.device
    if not has_streams(device):
        return tensor.cpu()
    module = accelerator.module_of(device)
    host = torch.empty_like(tensor, device="cpu").pin_memory()
    with module.stream(module.Stream(device)):
        host.copy_(tensor, non_blocking=True)
        recorded(device).synchronize()
    return host


class Flag:
    """Whether all of some conditions, [] booleans, hold: asked for now, known a little later.

    `behind`: devices that have to have come to this point in any case.
    """

    def __init__(self, conditions: Iterable[torch.Tensor] = (), behind: Iterable[torch.device] = ()) -> None:
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for one in conditions:
            by_device.setdefault(one.device, []).append(one)
        self._answers: list[torch.Tensor] = []
        self._events: list[Any] = []
        for device, own in by_device.items():
            holds = own[0] if len(own) == 1 else torch.stack(own).all()
            if has_streams(device):
                answer = torch.empty((), dtype=torch.bool).pin_memory()
                answer.copy_(holds, non_blocking=True)
                self._events.append(recorded(device))
                holds = answer
            self._answers.append(holds)
        self._events += [recorded(device) for device in behind if has_streams(device)]

    @property
    def waits(self) -> bool:
        """Whether the answer comes from a device, later."""
        return bool(self._events)

    def known(self) -> bool:
        """Whether `holds` need not wait any more."""
        return all(event.query() for event in self._events)

    def holds(self) -> bool:
        """The answer. Waits for it."""
        with DeviceWait("outcome"):
            if not self.known():
                for event in self._events:
                    event.synchronize()
            return all(bool(answer) for answer in self._answers)
