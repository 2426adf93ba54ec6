"""A replica's actor, from the inside: the same `Child` as in a process, over a mailbox that Ray empties and fills.

Messages travel as bytes (see `packed`). What is said within some milliseconds goes as one object of the stream.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import ray

from interlace.stages.replicas.processes.channel import packed, unpacked
from interlace.stages.replicas.processes.child import Child

Parts = list[bytes]
_GATHER_S = 0.05  # what is said within so much time travels together: an object of a stream costs a millisecond


class Mailbox:
    """A `ChildChannel` between the threads of one actor."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Parts] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Parts | None] = queue.SimpleQueue()

    def send(self, message: object) -> None:
        """To the owner."""
        self._outbox.put(packed(message))

    def receive(self) -> object:
        """From the owner."""
        return unpacked(self.inbox.get())

    def end(self) -> None:
        """Nothing more is said."""
        self._outbox.put(None)

    def outgoing(self) -> Iterator[list[Parts]]:
        """What is said, as it comes, until the end."""
        while (first := self._outbox.get()) is not None:
            time.sleep(_GATHER_S)
            together: list[Parts | None] = [first]
            with suppress(queue.Empty):
                while together[-1] is not None:
                    together.append(self._outbox.get_nowait())
            yield [parts for parts in together if parts is not None]
            if together[-1] is None:
                return


class ReplicaActor:
    """What runs under Ray. Its owner kills it: the actor itself never ends."""

    def __init__(self) -> None:
        self._mailbox = Mailbox()
        threading.Thread(target=self._run, name="interlace-child", daemon=True).start()

    @ray.method(concurrency_group="inward")
    def deliver(self, parts: Parts) -> None:
        """A message of the owner."""
        self._mailbox.inbox.put(parts)

    @ray.method(concurrency_group="outward", num_returns="streaming")
    def messages(self) -> Iterator[list[Parts]]:
        """To the owner, until it has closed the stage."""
        yield from self._mailbox.outgoing()

    def _run(self) -> None:
        try:
            Child(self._mailbox).run()
        finally:
            self._mailbox.end()
