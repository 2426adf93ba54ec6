"""A replica's process, from the inside: opens a stage and does what its owner says.

Started as `python -m interlace.stages.replicas.processes.child DESCRIPTOR`. It ends when its owner closes the
connection, or is gone. The thread that reads never writes: neither end can keep the other waiting for ever.
"""

import contextlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any, Protocol

from interlace.python.hushed import hush_imports
from interlace.request import Output, Progress, Request
from interlace.stages.replicas.processes.channel import ProcessChannel
from interlace.stages.replicas.processes.messages import (
    Abort,
    Close,
    Counted,
    Done,
    Logged,
    Open,
    Opened,
    Refused,
    Submit,
    Told,
)
from interlace.stages.replicas.processes.shadow import without_weights

_COUNT_EVERY_S = 0.2


class ChildChannel(Protocol):
    """The way to a replica's owner."""

    def send(self, message: object) -> None:
        """Raises `OSError` when the owner is gone; what can't be pickled raises what pickle raises."""

    def receive(self) -> Any:
        """The next message. Raises `EOFError` or `OSError` when the owner is gone."""


class Child:
    """Hands messages to a stage, and what it says to the owner."""

    def __init__(self, channel: ChildChannel) -> None:
        self._channel = channel
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._stage: Any = None
        self._live, self._lock, self._counting = 0, threading.Lock(), threading.Lock()
        self._writer = threading.Thread(target=self._write, name="interlace-outbox", daemon=True)
        self._writer.start()

    def run(self) -> None:
        """Until it is closed. Raises `EOFError` or `OSError` when the owner is gone."""
        self._open()
        while not isinstance(message := self._channel.receive(), Close):
            self._obey(message)
        if self._stage is not None:
            self._stage.close()
        self._outbox.put(None)
        self._writer.join()

    def _open(self) -> None:
        first = self._channel.receive()
        assert isinstance(first, Open)
        _log_to(self._outbox, first.name)
        try:
            self._stage = pickle.loads(first.opener)()
            self._outbox.put(Opened(facts=self._stage.describe(), model=without_weights(self._stage)))
            self._count()
            threading.Thread(target=self._count_now_and_then, name="interlace-counts", daemon=True).start()
        except Exception as error:
            self._outbox.put(Refused(error=error))

    def _obey(self, message: Any) -> None:
        match message:
            case Submit():
                self._submit(message.request)
            case Abort():
                self._stage.abort(message.request_id)

    def _submit(self, request: Request) -> None:
        self._change_live(1)
        try:
            future: Future[Output] = self._stage.submit(request, self._tell)
        except Exception as error:
            self._done(Output(request_id=request.request_id, error=error))
            return
        future.add_done_callback(lambda done: self._done(done.result()))

    def _tell(self, progress: Progress) -> None:
        self._outbox.put(Told(progress=progress))

    def _done(self, output: Output) -> None:
        if self._change_live(-1) == 0:  # whoever waited for the last of them finds the counts complete
            self._count()
        self._outbox.put(Done(output=output))

    def _change_live(self, by: int) -> int:
        with self._lock:
            self._live += by
            return self._live

    def _count(self) -> None:
        engine = getattr(self._stage, "engine", None)
        with self._counting:  # two threads count: what was counted first is said first
            if engine is None:
                self._outbox.put(Counted(counts=self._stage.stats()))
            else:
                self._outbox.put(Counted(counts=engine.statistics(), forwarding=engine.forwarding()))

    def _count_now_and_then(self) -> None:
        while True:
            time.sleep(_COUNT_EVERY_S)
            if self._live:
                self._count()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._channel.send(message)
            except OSError:
                return  # the owner is gone: the thread that reads ends the process
            except Exception as error:
                self._channel.send(_instead(message, error))


def _instead(message: object, error: Exception) -> object:
    """What is sent for a message that can't be pickled."""
    told = TypeError(f"what came out can't be sent to another process: {error}")
    if isinstance(message, Done):
        return Done(output=Output(request_id=message.output.request_id, error=told, metrics=message.output.metrics))
    if isinstance(message, Opened):
        return Refused(error=told)
    return Logged(record=logging.makeLogRecord({"msg": str(told), "name": __name__, "levelno": logging.WARNING}))


class _Sender(logging.Handler):
    """Log lines as messages, in words: what they are made of stays here."""

    def __init__(self, outbox: "queue.SimpleQueue[object]", name: str) -> None:
        super().__init__()
        self._outbox, self._name = outbox, name

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        values = {**vars(record), "msg": f"{self._name}: {text}", "args": None, "exc_info": None, "exc_text": None}
        self._outbox.put(Logged(record=logging.makeLogRecord(values)))


def _log_to(outbox: "queue.SimpleQueue[object]", name: str) -> None:
    logging.captureWarnings(True)
    hush_imports()
    root = logging.getLogger()
    root.handlers = [_Sender(outbox, name)]
    logging.getLogger("interlace").setLevel(logging.INFO)


def main() -> None:
    """The whole life of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the owner's affair
    os.dup2(2, 1)  # what libraries print is not the owner's output
    with contextlib.suppress(EOFError, OSError):
        Child(ProcessChannel(int(sys.argv[1]))).run()
    os._exit(0)  # threads of libraries must not keep a process whose owner is gone


if __name__ == "__main__":
    main()
