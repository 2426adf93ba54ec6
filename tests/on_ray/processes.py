"""Processes of a cluster on this machine (Linux)."""

from pathlib import Path
from typing import Any


def actors(cluster: Any) -> list[int]:
    """The processes of the cluster's replicas: children of its raylets."""
    raylets = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and b"ray::ReplicaActor" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found
