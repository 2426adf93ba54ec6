"""The Ray cluster that a run is on, and how many replicas of what size it has room for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interlace.errors import InvalidRequestError

_QUIET = {"log_to_driver": False, "logging_level": "WARNING"}


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """So many replicas, and what each of them asks Ray for."""

    num_replicas: int
    num_cpus: int = 1
    num_gpus: int = 0

    def __str__(self) -> str:
        what = f"{self.num_gpus} GPU" if self.num_gpus else f"{self.num_cpus} CPUs" if self.num_cpus > 1 else "1 CPU"
        return f"{self.num_replicas} replicas of {what} each"


def connect(address: str) -> None:
    """Join a cluster: `auto` for the one that this machine belongs to, its head's `HOST:PORT`, or `local` for one that
    is started here and ends with this process.

    Raises `InvalidRequestError` where there is none, or where Ray is not installed.
    """
    ray = _ray()
    if ray.is_initialized():
        return
    if address.startswith("ray://"):
        raise InvalidRequestError(
            f"{address} is for Ray's client, which streams no results; run this command on the cluster: "
            "ray job submit -- interlace ... --ray auto",
            "ray",
        )
    try:
        ray.init(address=address, namespace="interlace", **_QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidRequestError(
            f"no Ray cluster at {address!r} ({_first_line(error)}); start one with `ray start --head`, name its "
            "HOST:PORT, or take --ray local for one on this machine alone",
            "ray",
        ) from error


def fleet(num_replicas: int | None = None) -> Fleet:
    """What fits the cluster of this process as it is now. Raises `InvalidRequestError`."""
    nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    return fleet_for(nodes, num_replicas)


def has_room(wanted: Fleet) -> bool:
    """Whether the cluster has enough that is free for one of the replicas, as far as its sums tell."""
    free = _ray().available_resources()
    return bool(free.get("CPU", 0) >= wanted.num_cpus and free.get("GPU", 0) >= wanted.num_gpus)


def fleet_for(nodes: Sequence[dict[str, Any]], num_replicas: int | None = None) -> Fleet:
    """A replica on each GPU; without GPUs one on each node. More than there is room for wait until nodes come.

    `nodes` are the resources of each as Ray names them. Raises `InvalidRequestError`.
    """
    if num_replicas is not None and num_replicas < 1:
        raise InvalidRequestError(f"num_replicas is {num_replicas}; expected at least 1", "num_replicas")
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if num_gpus:
        return Fleet(num_replicas=num_replicas or num_gpus, num_gpus=1)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise InvalidRequestError("the Ray cluster has neither GPUs nor CPUs to run on; add nodes", "ray")
    count = num_replicas or len(cores)
    # A replica must fit on a node: with fewer replicas than nodes the smallest one bounds what it may ask for.
    return Fleet(num_replicas=count, num_cpus=max(min(sum(cores) // count, min(cores)), 1))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InvalidRequestError("Ray is not installed; pip install 'interlace[ray]'", "ray") from error
    return ray


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
