"""`Engine`: a pipeline and a thread that runs it for many requests at once. Safe to call from any thread."""

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from time import monotonic
from types import TracebackType
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from interlace.config import EngineConfig
from interlace.engine.ambient import Ambient
from interlace.engine.cost import CostModel, cost_file
from interlace.engine.engine import EngineCore
from interlace.engine.footprint import budget_of
from interlace.engine.memory import MemoryModel
from interlace.engine.prompt_cache import PromptCache
from interlace.engine.ticket import StepListener, Ticket
from interlace.engine.view import modules_of
from interlace.errors import EngineClosedError, EngineDeadError, InvalidRequestError

logger = logging.getLogger("interlace.engine")
_ids = itertools.count()


class Engine:
    """Runs a loaded diffusers pipeline for many requests at once; takes the pipeline's own arguments.

    Each request gets what `pipeline(**kwargs)` would have returned alone. While the engine is open its modules are
    intercepted; the pipeline itself still works for anybody else. Options are the fields of `EngineConfig`.

    Raises `InvalidRequestError` for a wrong option or something that is not a pipeline.
    """

    def __init__(self, pipeline: DiffusionPipeline, config: EngineConfig | None = None, **options: Any) -> None:
        if not isinstance(pipeline, DiffusionPipeline):
            raise InvalidRequestError(f"Engine got a {type(pipeline).__name__}; expected a loaded DiffusionPipeline")
        self.pipeline = pipeline
        self.config = config or EngineConfig(**options)
        memory = MemoryModel(*budget_of(modules_of(pipeline).values(), pipeline.device, self.config))
        self._core = EngineCore(pipeline, self.config, costs_of(pipeline), memory)
        self._inbox: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._live: dict[str, Ticket] = {}
        self._dead: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="interlace-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        kwargs: Mapping[str, Any],
        *,
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        on_step: StepListener | None = None,
        preview_every: int = 0,
        hold_guidance_after: float | None = None,
    ) -> "Future[Any]":
        """Queue one call of the pipeline. The future gets its output or its error; `future.ticket` tells how it went.

        `on_step(step, num_steps, latents)` runs in the engine's thread: it must be quick. Raises `EngineClosedError`,
        `EngineDeadError`, or `InvalidRequestError` when `request_id` is already in use.
        """
        ticket = self._ticket(kwargs, request_id, priority, timeout_s, on_step, preview_every)
        ticket.hold_guidance_after = hold_guidance_after
        self._inbox.put(lambda: self._core.add([ticket]))
        return ticket.future

    def map(self, requests: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Run all calls; one item each, in order: the pipeline's own output, or the exception that it raised."""
        tickets = [self._ticket(kwargs) for kwargs in requests]
        self._inbox.put(lambda: self._core.add(tickets))
        return [ticket.future.exception() or ticket.future.result() for ticket in tickets]

    def _ticket(
        self,
        kwargs: Mapping[str, Any],
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        on_step: StepListener | None = None,
        preview_every: int = 0,
    ) -> Ticket:
        request_id = request_id or f"request-{next(_ids)}"
        deadline = None if timeout_s is None else monotonic() + timeout_s
        ambient = Ambient(_seed_of(kwargs))
        ticket = Ticket(request_id, dict(kwargs), ambient, Future(), priority, deadline, on_step, preview_every)
        ticket.future.ticket = ticket  # type: ignore[attr-defined]
        with self._lock:
            self._check_open()
            if request_id in self._live:
                raise InvalidRequestError(f"request_id {request_id!r} is already in use; choose another", "request_id")
            self._live[request_id] = ticket
        ticket.future.add_done_callback(lambda _: self._live.pop(request_id, None))
        return ticket

    def abort(self, request_id: str) -> bool:
        """End a request at the next forward with `AbortedError`. False when there is no such request."""
        known = request_id in self._live
        self._inbox.put(lambda: self._core.abort(request_id))
        return known

    @property
    def prompt_cache(self) -> PromptCache | None:
        """Where text encodings are kept. Several engines may share one; to be set before the first request."""
        return self._core.shortcuts.prompt_cache

    @prompt_cache.setter
    def prompt_cache(self, cache: PromptCache | None) -> None:
        self._core.shortcuts.prompt_cache = cache

    def stats(self) -> dict[str, Any]:
        """Counts since the start: forwards and rows per module, what isn't shared and why, where the time went."""
        core, counts = self._core, self._core.executor.stats
        forward_s, strand_s, loop_s = counts.forward_seconds, core.strand_seconds, core.loop_seconds
        forwards, rows = dict(counts.forwards), dict(counts.rows)  # copied whole: the engine goes on counting
        widths = dict(counts.widths)
        return {
            "forwards": forwards,
            "rows": rows,
            "mean_rows": {name: rows.get(name, 0) / n for name, n in forwards.items()},
            "widths": {name: {n: c for (label, n), c in widths.items() if label == name} for name in forwards},
            "padding": {"text_tokens": counts.text_tokens, "padded_tokens": counts.padded_tokens},
            "unfused": dict(counts.unfused),
            "exclusive": core.exclusive,
            "verified": counts.verified,
            "halved": counts.halved,
            "out_of_memory": counts.out_of_memory,
            "requests": {**core.finished, "live": len(self._live)},
            "skipped": core.shortcuts.num_skipped,
            "guidance_held": core.shortcuts.num_held,
            "prompt_cache": core.shortcuts.prompt_cache.stats() if core.shortcuts.prompt_cache is not None else None,
            "cost": core.cost.describe(),
            "memory": core.memory.describe(),
            "seconds": {"forward": forward_s, "strand": strand_s, "engine": loop_s - forward_s - strand_s},
        }

    def live(self) -> list[dict[str, Any]]:
        """Every request without a result, oldest first: request_id, state ("waiting" or "running"), step of num_steps,
        and the rows of the last forward that it took part in. A look from outside: it may be a forward late."""
        return [
            {
                "request_id": ticket.request_id,
                "state": "waiting" if ticket.strand is None else "running",
                "step": ticket.metrics.num_steps,
                "num_steps": ticket.num_steps,
                "rows": ticket.num_rows,
            }
            for ticket in list(self._live.values())
        ]

    @property
    def is_open(self) -> bool:
        """False once it was closed, or its thread has ended."""
        return self._dead is None

    def forwarding(self) -> tuple[str, ...]:
        """The requests that share the current forward, or the last one while others run; empty when idle."""
        return self._core.forwarding

    def close(self) -> None:
        """Stop; pending requests get `EngineClosedError`. The pipeline is left as it was. May be called twice."""
        with self._lock:
            already, self._dead = self._dead, self._dead or EngineClosedError("the engine is closed; make a new one")
        if already is None:
            self._inbox.put(None)
        self._thread.join()
        self._core.cost.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if isinstance(self._dead, EngineClosedError):
            raise self._dead
        if self._dead is not None:
            raise EngineDeadError(f"the engine's thread has ended: {self._dead!r}; make a new engine")

    def _main(self) -> None:
        try:
            with torch.no_grad():
                while self._turn():
                    pass
            self._core.close(EngineClosedError("the engine was closed before this request was done"))
        except BaseException as error:
            logger.exception("the engine's thread ended")
            self._die(error)

    def _turn(self) -> bool:
        """One forward, after the messages that came in; False when the engine is to stop."""
        wait = self._core.step()
        try:
            while True:
                message = self._inbox.get(block=wait != 0, timeout=wait or None)
                if message is None:
                    return False
                message()
                wait = 0.0
        except queue.Empty:
            return True

    def _die(self, error: BaseException) -> None:
        with self._lock:
            self._dead = self._dead or error
        dead = EngineDeadError(f"the engine's thread ended: {error!r}")
        dead.__cause__ = error
        for ticket in list(self._live.values()):
            if not ticket.future.done():
                ticket.future.set_exception(dead)
        self._core.close(dead)


def costs_of(pipeline: DiffusionPipeline) -> CostModel:
    """What was measured before with this device, architecture, precision and version of torch."""
    device, modules = pipeline.device, modules_of(pipeline)
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}{torch.get_num_threads()}"
    millions = "-".join(f"{sum(p.numel() for p in module.parameters()) / 1e6:.3g}" for module in modules.values())
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return CostModel(cost_file(on, f"{type(pipeline).__name__}-{millions}", dtype, torch.__version__))


def _seed_of(kwargs: Mapping[str, Any]) -> int:
    """What a pipeline that ignores its `generator` draws from: the seed of that generator, else torch's own state."""
    generator = kwargs.get("generator")
    first = generator[0] if isinstance(generator, (list, tuple)) and generator else generator
    if isinstance(first, torch.Generator):
        return first.initial_seed()
    return int(torch.randint(2**62, ()).item())
