"""Joining a group, and what its ranks send each other: commands through their store, tensors by gloo or by
their device's own backend (NCCL, XCCL)."""

import pickle
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from interlace.engine import accelerator
from interlace.engine.group.config import GroupConfig

_FOR_EVER = timedelta(days=365)  # that a follower waits for work
_KEPT_COMMANDS = 64  # for ranks that had nothing to do in some


class Ranks:
    """This process among the ranks. Every method raises `RuntimeError` when another rank is gone, or late."""

    def __init__(self, rank: int, config: GroupConfig, device: torch.device, store: dist.Store) -> None:
        """`store` is where they meet."""
        self.rank, self.config, self.device = rank, config, device
        store.set(f"ready/{rank}", "")
        store.wait([f"ready/{other}" for other in range(config.world_size)])  # loading may take longer than work
        backend = "gloo"
        if device.type != "cpu":
            torch.accelerator.set_device_index(accelerator.numbered(device).index)
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=config.world_size,
            timeout=timedelta(seconds=config.timeout_s),
        )
        self._store = dist.PrefixStore("commands", store)
        self._store.set_timeout(_FOR_EVER)
        self._num_commands = 0

    @property
    def followers(self) -> Sequence[int]:
        """All ranks but the first."""
        return range(1, self.config.world_size)

    def share_of(self, rank: int) -> int:
        """Which share of the rows a rank takes part in."""
        return rank // self.config.context_degree

    def answers(self, rank: int) -> bool:
        """Whether a rank is the one that sends its share's output."""
        return rank % self.config.context_degree == 0

    def command(self, message: object) -> None:
        """From the first rank, to all others. Waits for nobody: who is late is found out by what follows."""
        self._num_commands += 1
        self._store.set(str(self._num_commands), pickle.dumps(message))  # type: ignore[arg-type]  # it takes bytes
        if self._num_commands > _KEPT_COMMANDS:
            self._store.delete_key(str(self._num_commands - _KEPT_COMMANDS))

    def obey(self) -> Any:
        """What the first rank commands, whenever that is."""
        self._num_commands += 1
        return pickle.loads(self._store.get(str(self._num_commands)))

    def send(self, message: object, tensors: Sequence[torch.Tensor], rank: int) -> None:
        """An object, then tensors."""
        data = torch.frombuffer(bytearray(pickle.dumps(message)), dtype=torch.uint8)
        dist.send(torch.tensor([data.numel()]), rank)
        dist.send(data, rank)
        self.send_tensors(tensors, rank)

    def receive(self, rank: int) -> Any:
        """The object; its tensors are to be received then."""
        size = torch.zeros(1, dtype=torch.int64)
        dist.recv(size, rank)
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(data, rank)
        return pickle.loads(data.numpy().tobytes())

    def send_tensors(self, tensors: Sequence[torch.Tensor], rank: int) -> None:
        for tensor in tensors:
            if tensor.numel():
                dist.send(_plain(tensor), rank)

    def receive_tensors(self, kinds: Sequence["Kind"], rank: int) -> list[torch.Tensor]:
        """As many tensors as `kinds` says, of their types and sizes."""
        tensors = [
            torch.empty(shape, dtype=dtype, device=self.device if on_device else "cpu")
            for dtype, shape, on_device in kinds
        ]
        for tensor in tensors:
            if tensor.numel():
                dist.recv(_plain(tensor), rank)
        return tensors

    def leave(self) -> None:
        """The group is over."""
        if dist.is_initialized():
            dist.destroy_process_group()


Kind = tuple[torch.dtype, torch.Size, bool]  # dtype, shape, whether it is on the device


def kind_of(tensor: torch.Tensor) -> Kind:
    """What a rank must know of a tensor to receive it."""
    return tensor.dtype, tensor.shape, tensor.device.type != "cpu"


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes in a form that every backend sends: contiguous, and no bool or complex numbers."""
    flat = tensor.contiguous().reshape(-1)
    if flat.stride(0) != 1:  # one element of a tensor that was expanded
        flat = torch.empty_like(flat, memory_format=torch.contiguous_format).copy_(flat)
    return flat.view(torch.uint8)
