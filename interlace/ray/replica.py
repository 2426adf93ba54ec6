"""A replica in an actor, from the outside: what `ReplicaStage` needs of one. Knows nothing of routing."""

import logging
import os
import pickle
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from interlace.ray.actor import ReplicaActor
from interlace.ray.cluster import Fleet
from interlace.stages.replicas.processes.channel import packed, unpacked
from interlace.stages.replicas.processes.messages import Close, Logged, Open
from interlace.stages.replicas.processes.process import Listener, ReplicaHandle, ReplicaSpec

_ENDS_IN_S = 10.0  # an actor that was told to close
_ENVIRONMENT = ("GOMP_SPINCOUNT", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_OFFLINE")
_GROUPS = {"inward": 1, "outward": 1}  # one thread each: messages keep their order


@dataclass(frozen=True, kw_only=True)
class ActorSpec(ReplicaSpec):
    """How a replica is started in an actor, wherever the cluster has room for it."""

    fleet: Fleet = field(default_factory=lambda: Fleet(num_replicas=1))

    def start(self, listener: Listener) -> ReplicaHandle:
        """It waits for room by itself. Raises `OSError` when the cluster is gone."""
        try:
            return ActorReplica(self, listener)
        except RayError as error:
            raise OSError(f"Ray starts no actor: {error}") from error


class ActorReplica:
    """One actor with a stage in it. Ray does not restart it: whoever owns it starts another."""

    def __init__(self, spec: ActorSpec, listener: Listener) -> None:
        self.spec, self._listener = spec, listener
        self._why = "it was closed"
        remote: Any = ray.remote
        make = remote(concurrency_groups=_GROUPS)(ReplicaActor).options(
            num_cpus=spec.fleet.num_cpus,
            num_gpus=spec.fleet.num_gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"TQDM_DISABLE": "1", **_passed_on(), **spec.environment}},
        )
        self._actor = make.remote()
        self._messages = self._actor.messages.remote()
        self._actor.deliver.remote(packed(Open(opener=pickle.dumps(spec.opener), name=spec.name)))
        self._thread = threading.Thread(target=self._listen, name=f"interlace-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Unknown: it may be on another machine."""
        return None

    def send(self, message: object) -> None:
        parts = packed(message)
        with suppress(RayError):
            self._actor.deliver.remote(parts)

    def kill(self) -> None:
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def close(self) -> None:
        self.send(Close())
        if threading.current_thread() is not self._thread:
            self._thread.join(_ENDS_IN_S)
        self.kill()

    def why(self) -> str:
        return self._why

    def _listen(self) -> None:
        try:
            for several in self._messages:
                for parts in ray.get(several):
                    self._hear(unpacked(parts))
        except RayError as error:
            self._why = _reason(error)
        except Exception as error:
            self._why = f"a message can't be read: {error}"
            logging.getLogger("interlace.stages").exception("a message of %s can't be read", self.spec.name)
        self.kill()  # an actor that can't be heard is of no use
        self._listener(self, None)

    def _hear(self, message: object) -> None:
        if isinstance(message, Logged):
            logging.getLogger(message.record.name).handle(message.record)
        else:
            self._listener(self, message)


def _passed_on() -> dict[str, str]:
    """Of this process's environment what decides how forwards run; the nodes have their own of everything else."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _reason(error: RayError) -> str:
    """The sentence that says why, of the many lines that Ray's errors have."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if " because " in line or "killed" in line.lower()]
    return (telling or lines or [type(error).__name__])[0][:200]
