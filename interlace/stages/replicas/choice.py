"""`--replicas auto`: one a GPU; on a CPU what was measured to be quicker there, else one.

`python bench/replicas.py --keep` measures it and leaves it beside the measured costs of forwards.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger("interlace.stages")
_WORTH = 1.03  # times as fast: a second process has the weights once more


def choose_replicas(model: str, num_gpus: int, num_ranks: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """How many replicas of `num_ranks` processes each. Says in the log why."""
    if num_gpus:
        found = max(num_gpus // num_ranks, 1)
        logger.info("replicas auto: %d, for %d GPUs", found, num_gpus)
        return found
    known = _measured(_file(model, environment))
    if known is None:
        logger.info("replicas auto: 1; nothing was measured here (python bench/replicas.py --keep)")
        return 1
    count, ratio = known
    logger.info("replicas auto: %d were %.2f times as fast as one engine here", count, ratio)
    return count if ratio >= _WORTH else 1


def keep_choice(model: str, replicas: int, ratio: float, environment: Mapping[str, str] = os.environ) -> None:
    """So many replicas were `ratio` times as fast as one engine over the same cores."""
    path = _file(model, environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps({"replicas": replicas, "ratio": ratio}), encoding="utf-8")
    fresh.replace(path)


def num_cores(environment: Mapping[str, str]) -> int:
    """What this process may use of the CPU."""
    given = environment.get("OMP_NUM_THREADS", "")
    if given.isdecimal():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measured(path: Path) -> tuple[int, float] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return int(known["replicas"]), float(known["ratio"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _file(model: str, environment: Mapping[str, str]) -> Path:
    from interlace.engine.costs import cost_file  # and torch

    costs = cost_file(f"cpu{num_cores(environment)}", model, "replicas", "1", environment)
    return costs.parent.parent / "replicas" / costs.name
