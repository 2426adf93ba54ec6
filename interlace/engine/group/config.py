"""How the ranks of a group divide a forward. Knows nothing of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_PIPEFUSION = ("DG_XDIT_PIPEFUSION_DEGREE", "DG_XDIT_PIPEFUSION_PARALLEL_DEGREE", "DG_XDIT_PP_DEGREE")


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Ranks of one engine. `rows_degree` of them take shares of a forward's rows; each share is computed by
    `ulysses_degree * ring_degree` ranks, which divide its tokens. Raises `InvalidRequestError` for what can't be."""

    ulysses_degree: int = 1
    ring_degree: int = 1
    rows_degree: int = 1
    timeout_s: float = 120.0  # that a rank may let the others wait before the group is given up

    def __post_init__(self) -> None:
        for name in ("ulysses_degree", "ring_degree", "rows_degree"):
            check_number(name, getattr(self, name), 1, whole=True, high=1024)
        check_number("timeout_s", self.timeout_s, 0.1)

    @property
    def context_degree(self) -> int:
        """Ranks that divide the tokens of one share of rows."""
        return self.ulysses_degree * self.ring_degree

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.rows_degree * self.context_degree


@dataclass(frozen=True, kw_only=True)
class LaunchedRank:
    """This process among those that `torchrun` started."""

    rank: int
    world_size: int
    local_rank: int  # on this machine: which of its devices is this process's

    def group(self, asked: GroupConfig) -> GroupConfig:
        """The group that is asked for, over all that were started; without degrees all take shares of rows.

        Raises `InvalidRequestError` where the degrees need another number of processes.
        """
        if asked.world_size == 1:
            return replace(asked, rows_degree=self.world_size)
        if asked.world_size != self.world_size:
            raise InvalidRequestError(
                f"torchrun started {self.world_size} processes, the degrees multiply to {asked.world_size}; expected "
                "as many: change --nproc-per-node, or the degrees",
                "rows_degree",
            )
        return asked


def launched_rank(environment: Mapping[str, str]) -> LaunchedRank | None:
    """What the variables of `torchrun` say; None where it started nothing, or one process alone."""
    if "TORCHELASTIC_RUN_ID" not in environment or _whole(environment, "WORLD_SIZE") == 1:
        return None
    return LaunchedRank(
        rank=int(environment["RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
    )


@dataclass(frozen=True, kw_only=True)
class XditDegrees:
    """What the variables `DG_XDIT_*` ask for; `replicas` are its data parallelism over whole requests."""

    group: GroupConfig
    replicas: int = 1


def xdit_degrees(environment: Mapping[str, str]) -> XditDegrees:
    """Raises `InvalidRequestError` for a value that is no number, and for PipeFusion, by name."""
    for name in _PIPEFUSION:
        if _whole(environment, name) > 1:
            raise InvalidRequestError(
                f"{name} is {environment[name]}: PipeFusion computes with activations of the step before, so pictures "
                "would differ from those of one GPU; use DG_XDIT_ULYSSES_DEGREE or DG_XDIT_DATA_PARALLEL_DEGREE",
                name,
            )
    cfg = environment.get("DG_XDIT_USE_CFG_PARALLEL", "").lower() in ("1", "true", "yes", "on")
    group = GroupConfig(
        ulysses_degree=_whole(environment, "DG_XDIT_ULYSSES_DEGREE"),
        ring_degree=_whole(environment, "DG_XDIT_RING_DEGREE"),
        rows_degree=2 if cfg else 1,
    )
    return XditDegrees(group=group, replicas=_whole(environment, "DG_XDIT_DATA_PARALLEL_DEGREE"))


def _whole(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or "1"
    if not text.isdecimal() or not int(text):
        raise InvalidRequestError(f"the variable {name} is {text!r}; expected a whole number from 1 on", name)
    return int(text)
