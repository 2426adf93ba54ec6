"""Which devices and how many of the CPU's cores each replica gets. No torch; what is there is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from interlace.engine.visible import Accelerators
from interlace.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class ReplicaPlacement:
    """`environment` is what its process has beside ours, `devices` what its ranks call theirs there, one each."""

    devices: tuple[str | None, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def placements(
    num_replicas: int,
    num_ranks: int,
    device: str | Sequence[str] | None,
    gpus: Accelerators,
    num_cores: int,
) -> list[ReplicaPlacement]:
    """One a replica of `num_ranks` processes. `device` is as a stage's config has it: one, or one a replica or rank;
    `gpus` are those that are there.

    Raises `InvalidRequestError` where there are too few.
    """
    total = num_replicas * num_ranks
    threads = {"OMP_NUM_THREADS": str(max(num_cores // total, 1))}
    if device is None or device == gpus.kind:
        if not gpus.names and device is None:
            return [ReplicaPlacement(devices=("cpu",) * num_ranks, environment=threads)] * num_replicas
        _check_enough(total, num_replicas, num_ranks, len(gpus.names))
        names = [str(index) for index in range(total)]
    else:
        named = [device] if isinstance(device, str) else list(device)
        if len(named) == num_replicas:
            named = [name for name in named for _ in range(num_ranks)]
        names = named * total if len(named) == 1 else named
        if len(names) < total:
            raise InvalidRequestError(
                f"device names {len(named)} devices; expected one, or {num_replicas} (one a replica), or {total} "
                "(one a rank)",
                "device",
            )
        if not all(name.partition(":")[0] == gpus.kind for name in names):
            cut = [tuple(names[i * num_ranks : (i + 1) * num_ranks]) for i in range(num_replicas)]
            return [ReplicaPlacement(devices=one, environment=threads) for one in cut]
        names = [name.partition(":")[2] or "0" for name in names]
    visible = [_gpu(name, gpus) for name in names[:total]]
    own = [visible[i * num_ranks : (i + 1) * num_ranks] for i in range(num_replicas)]
    return [_on_gpus(one, gpus, threads) for one in own]


def _on_gpus(visible: Sequence[str], gpus: Accelerators, threads: Mapping[str, str]) -> ReplicaPlacement:
    own = list(dict.fromkeys(visible))
    devices = tuple(f"{gpus.kind}:{own.index(name)}" for name in visible)
    return ReplicaPlacement(devices=devices, environment={**threads, gpus.variable: ",".join(own)})


def _gpu(number: str, gpus: Accelerators) -> str:
    if int(number) >= len(gpus.names):
        text = f"device {gpus.kind}:{number} is not there; this machine has {len(gpus.names)} GPUs"
        raise InvalidRequestError(text, "device")
    return gpus.names[int(number)]


def _check_enough(total: int, num_replicas: int, num_ranks: int, num_gpus: int) -> None:
    if total > num_gpus:
        of_ranks = f" of {num_ranks} ranks" if num_ranks > 1 else ""
        raise InvalidRequestError(
            f"{num_replicas} replicas{of_ranks} need {total} GPUs; there are {num_gpus}; name devices to let several "
            "share one, such as --device cuda:0",
            "replicas",
        )
