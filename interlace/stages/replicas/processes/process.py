"""A replica from the outside: started, spoken to, heard until its end. Here in a process of this machine.

Knows nothing of routing.
"""

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from socket import socketpair
from typing import Any, Protocol

from interlace.stages.replicas.processes.channel import ProcessChannel
from interlace.stages.replicas.processes.messages import Close, Logged, Open

Listener = Callable[["ReplicaHandle", object], None]
_ENDS_IN_S = 10.0  # a process that was told to close


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """How a replica is started: what makes its stage, what it is called, what its environment has beside ours."""

    opener: Callable[[], Any]
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    max_live: int | None = None  # requests that are given to it at once; None: all that there are

    def start(self, listener: Listener) -> "ReplicaHandle":
        """Starts it. Raises `OSError` when that can't be now."""
        return ReplicaProcess(self, listener)


class ReplicaHandle(Protocol):
    """A replica that was started. Its listener hears its messages in a thread of their own, and last None: its end."""

    @property
    def pid(self) -> int | None:
        """Of its process; None before it is known."""

    def send(self, message: object) -> None:
        """What can't be delivered is lost: the listener hears of the end. Raises what pickle raises."""

    def kill(self) -> None:
        """End it at once; the listener hears of it."""

    def close(self) -> None:
        """Let it end by itself, and make it when it doesn't."""

    def why(self) -> str:
        """How it ended, in words."""


class ReplicaProcess:
    """One process with a stage in it. Raises `OSError` when no process can be started."""

    def __init__(self, spec: ReplicaSpec, listener: Listener) -> None:
        self.spec, self._listener = spec, listener
        ours, theirs = socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "interlace.stages.replicas.processes.child", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**environment, "TQDM_DISABLE": "1", **spec.environment},
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = ProcessChannel(ours.detach())
        self._thread = threading.Thread(target=self._listen, name=f"interlace-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: object) -> None:
        with suppress(OSError):
            self._channel.send(message)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.send(Close())
        try:
            self._process.wait(_ENDS_IN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join(_ENDS_IN_S)

    def why(self) -> str:
        code = self._process.wait(_ENDS_IN_S)
        return f"signal {-code}{', often a lack of memory' if code == -9 else ''}" if code < 0 else f"status {code}"

    def _listen(self) -> None:
        self.send(Open(opener=pickle.dumps(self.spec.opener), name=self.spec.name))
        while (message := self._received()) is not None:
            if isinstance(message, Logged):
                logging.getLogger(message.record.name).handle(message.record)
            else:
                self._listener(self, message)
        self._end()

    def _received(self) -> object | None:
        """The next message; None when there won't be one: the process is gone, or speaks in riddles."""
        try:
            message: object = self._channel.receive()
            return message
        except (EOFError, OSError):
            return None
        except Exception:
            logging.getLogger("interlace.stages").exception("a message of %s can't be read", self.spec.name)
            return None

    def _end(self) -> None:
        self._process.kill()  # a process that can't be heard is of no use
        self._process.wait()
        self._channel.close()
        self._listener(self, None)
