"""One small Ray at a time, whatever else runs; nothing of it is left behind."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
_PATHS = [str(_ROOT), str(_ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)  # for actors, which import what tests hand them
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # of 15 by default: beside other tests its processes would hardly run
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", "240")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def ray_alone() -> Iterator[None]:
    """Waits until no other process of this machine's tests has a Ray."""
    pytest.importorskip("ray", reason="needs the extra ray")
    with (Path(tempfile.gettempdir()) / f"interlace-ray-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        import ray

        ray.shutdown()


@pytest.fixture(scope="module")
def ray_here(ray_alone: None) -> Any:
    """A Ray of three cores, one for all modules that ask for it: Ray Data keeps one for its filter of what is
    checkpointed, and one to read."""
    import ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=3, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
    return ray
