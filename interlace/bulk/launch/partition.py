"""Which rows of an input are whose: a row belongs to a node and a process by a stable hash of its id.

So nodes may start whenever they like, in any number: nobody needs to ask anybody, and no row is skipped or doubled.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from interlace.bulk.input.rows import BadRow, Row


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One process of `num_processes` on one node of `num_nodes`; nodes may have different numbers of processes."""

    node_rank: int = 0
    num_nodes: int = 1
    process: int = 0
    num_processes: int = 1

    @property
    def tag(self) -> str:
        """Names this partition's own files in the output folder."""
        return f"{self.node_rank}-{self.process}"

    def owns(self, row_id: str) -> bool:
        bucket = row_hash(row_id)
        on_node = bucket // self.num_nodes
        return bucket % self.num_nodes == self.node_rank and on_node % self.num_processes == self.process


def row_hash(row_id: str) -> int:
    """64 bits that are the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(row_id.encode(errors="surrogateescape")).digest()[:8], "big")


@dataclass(frozen=True)
class PartitionRows:
    """The rows of one partition, in order. All are read, so that two partitions agree on whose a disputed id is."""

    rows: Iterable[Row | BadRow]
    partition: Partition

    def __iter__(self) -> Iterator[Row | BadRow]:
        return (row for row in self.rows if self.partition.owns(row.id or row.where))
