"""Requests whose pictures, sounds and films are read on other threads: they may be large, or far away."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from interlace.bulk.input.rows import Job
from interlace.errors import AbortedError
from interlace.request import Output, Request

if TYPE_CHECKING:
    from interlace.omni import Omni

_NUM_LOADERS = 4  # threads that read and decode


class Loaders:
    """Makes requests of jobs on threads of its own, and hands them to `omni`."""

    def __init__(self, omni: "Omni") -> None:
        self._omni = omni
        self._threads = ThreadPoolExecutor(_NUM_LOADERS, thread_name_prefix="interlace-images")
        self._loading: set[str] = set()
        self._lock = threading.Lock()

    def submit(self, job: Job, make: Callable[[Job], Request]) -> "Future[Output]":
        """What `make` raises is the output's error."""
        with self._lock:
            self._loading.add(job.name)
        result: Future[Output] = Future()
        self._threads.submit(self._load, job, make, result)
        return result

    def _load(self, job: Job, make: Callable[[Job], Request], result: "Future[Output]") -> None:
        try:
            request = make(job)
            with self._lock:
                if job.name not in self._loading:
                    raise AbortedError(f"{job.name} was aborted")
                self._loading.remove(job.name)
                future = self._omni.submit(request)
        except Exception as error:
            with self._lock:
                self._loading.discard(job.name)
            result.set_result(Output(request_id=job.name, prompt=job.prompt, error=error))
        else:
            future.add_done_callback(lambda done: result.set_result(done.result()))

    def abort(self, job: Job) -> None:
        """Wherever it is."""
        with self._lock:
            self._loading.discard(job.name)
            self._omni.abort(job.name)

    def close(self) -> None:
        """Waits for what is being read."""
        self._threads.shutdown()


def media_of(job: Job) -> tuple[list[Any], dict[str, list[bytes]]]:
    """The pictures that a language model sees, and the files of what it hears and of films, by kind."""
    seen = [source.load() for kind, source in job.media if kind == "image"]
    others: dict[str, list[bytes]] = {}
    for kind, source in job.media:
        if kind != "image":
            others.setdefault(kind, []).append(source.read())
    return seen, others
