"""A pipeline of the zoo over two gloo ranks on this CPU: this process is the first, another follows."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from interlace import Engine
from interlace.config import EngineConfig
from interlace.engine.group.config import GroupConfig
from interlace.engine.group.group import Lead
from interlace.engine.group.start import Followers
from interlace.engine.pipeline.view import modules_of
from tests.zoo import FAMILIES

TIMEOUT_S = 300.0


def build(name: str) -> Any:
    return FAMILIES[name].build()


@contextmanager
def group_engine(name: str, timeout_s: float = TIMEOUT_S, **degrees: int) -> Iterator[tuple[Engine, Lead, Followers]]:
    """An engine over `GroupConfig(**degrees)`, with what leads its group and the processes that follow."""
    config = GroupConfig(timeout_s=timeout_s, **degrees)
    opener = partial(build, name)
    followers = Followers(config, ["cpu"] * config.world_size, [opener] * config.world_size)
    try:
        pipeline = opener()
        ranks = followers.join()
        try:
            lead = Lead(ranks, modules_of(pipeline))
        except BaseException:
            ranks.leave()
            raise
        with Engine(pipeline, EngineConfig(resolution_tolerance=0.0, max_batch_rows=None), lead=lead) as engine:
            yield engine, lead, followers
    finally:
        followers.close()
