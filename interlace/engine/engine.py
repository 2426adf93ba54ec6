"""`Engine`: a pipeline and a thread that runs it for many requests at once. Safe to call from any thread."""

import contextlib
import copy
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import InvalidStateError
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from interlace.config import EngineConfig
from interlace.engine.allocator import keep_memory
from interlace.engine.caches.prompt import PromptCache
from interlace.engine.costs import costs_of
from interlace.engine.lifecycle import RequestFuture, refuse_in_engine_thread, register
from interlace.engine.loop import EngineCore
from interlace.engine.memory.footprint import budget_of
from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.variants.outfit import Outfit
from interlace.engine.pipeline.view import modules_of
from interlace.engine.policy.memory import MemoryModel
from interlace.engine.runner import Runner
from interlace.engine.statistics import EngineStatistics, LiveRequest, RequestCounts
from interlace.engine.ticket import EngineListener, StepListener, Ticket
from interlace.engine.tickets.book import Book
from interlace.engine.tickets.submission import make_ticket, of_steps
from interlace.errors import EngineClosedError, EngineDeadError, InvalidRequestError

if TYPE_CHECKING:
    from interlace.engine.group.group import Lead


class Engine:
    """Runs a loaded diffusers pipeline for many requests at once; takes the pipeline's own arguments.

    Each request gets what `pipeline(**kwargs)` would have returned alone. While the engine is open its modules are
    intercepted; the pipeline itself still works for anybody else. Options are the fields of `EngineConfig`.

    Raises `InvalidRequestError` for a wrong option or something that is not a pipeline.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline | Routine,
        config: EngineConfig | None = None,
        *,
        lead: "Lead | None" = None,
        **options: Any,
    ) -> None:
        if not isinstance(pipeline, (DiffusionPipeline, Routine)):
            raise InvalidRequestError(f"{type(pipeline).__name__}: expected a loaded DiffusionPipeline or Engine.over")
        self.pipeline = pipeline
        self.config = config or EngineConfig(**options)
        if pipeline.device.type == "cpu":
            keep_memory()
        memory = MemoryModel(*budget_of(modules_of(pipeline).values(), pipeline.device, self.config))
        self._core = EngineCore(pipeline, self.config, costs_of(pipeline), memory)
        self.lead = lead
        if lead is not None:
            self._core.executor.run_module = lead.run
        self._lock, self._book = threading.Lock(), Book()
        self._dead: BaseException | None = None
        self._core.endings.on_end = self._book.forget
        self._runner = Runner(self._core, self._die)
        register(self)

    @classmethod
    def over(
        cls,
        function: Callable[..., Any],
        modules: Mapping[str, torch.nn.Module],
        config: EngineConfig | None = None,
        *,
        lanes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """An engine for any callable: its runs share the forwards of `modules`, by name, that it calls on its way.

        Requests are the callable's keyword arguments. Modules that `lanes` puts in different lanes take turns. Raises
        `InvalidRequestError` for what is no callable or module.
        """
        return cls(Routine(function, modules, lanes), config, **options)

    def submit(
        self,
        kwargs: Mapping[str, Any],
        *,
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        on_step: StepListener | None = None,
        listener: EngineListener | None = None,
        preview_every: int = 0,
        hold_guidance_after: float | None = None,
        adapters: Mapping[str, float] | None = None,
        scheduler: SchedulerMixin | None = None,
        helpers: Mapping[str, Any] | None = None,
        outfit: Outfit | None = None,
        pipeline: DiffusionPipeline | None = None,
    ) -> RequestFuture:
        """Queue one call of the pipeline. The future gets its output or its error; `future.ticket` tells how it went.

        Containers among the arguments are copied now; tensors and generators are the caller's own.
        `adapters` are names of adapters (LoRA) that are loaded, with weights: those and no others, whatever the
        pipeline has active. `scheduler` takes the place of the pipeline's own, and so do `helpers`, small parts by
        name without state. `outfit` is what this request alone has on its modules, `pipeline` a sibling to run instead,
        which `adopt` was told of. `listener(event)` hears of its start, steps, previews and end, `on_step(step,
        num_steps, latents)` of steps and previews; both must be quick. Cancelling the future aborts the request.

        Raises `EngineClosedError`, `EngineDeadError`, or `InvalidRequestError` when `request_id` is in use.
        """
        if adapters:
            self._check_open()
            self._core.runs.loaded.check(adapters)
        ticket = self._ticket(kwargs, request_id, pipeline)
        ticket.listener = of_steps(on_step) if listener is None and on_step is not None else listener
        ticket.priority, ticket.preview_every = priority, preview_every
        ticket.deadline = None if timeout_s is None else monotonic() + timeout_s
        ticket.hold_guidance_after, ticket.outfit = hold_guidance_after, outfit
        ticket.adapters = None if adapters is None else dict(adapters)
        ticket.helpers = {**(helpers or {}), **({"scheduler": copy.deepcopy(scheduler)} if scheduler else {})}
        self._queue([ticket])
        return cast(RequestFuture, ticket.future)

    def map(self, requests: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Run all calls; one item each, in order: the pipeline's own output, or the exception that it raised.

        Raises as `submit`; where the wait is interrupted (Ctrl-C) the requests are aborted.
        """
        refuse_in_engine_thread(self._runner.thread, "map()")
        tickets = [self._ticket(kwargs) for kwargs in requests]
        self._queue(tickets)
        try:
            return [ticket.future.exception() or ticket.future.result() for ticket in tickets]
        except BaseException:
            for ticket in tickets:
                self.abort(ticket.request_id)
            raise

    def _ticket(
        self, kwargs: Mapping[str, Any], request_id: str | None = None, pipeline: DiffusionPipeline | None = None
    ) -> Ticket:
        if pipeline is not None and not self._core.tenancy.has(pipeline):
            text = f"the engine knows no such {type(pipeline).__name__}; call adopt first"
            raise InvalidRequestError(text, "pipeline")
        future = RequestFuture()
        ticket = make_ticket(kwargs, self._core.tenancy.parts(pipeline), future, request_id)
        ticket.pipeline = pipeline
        future.ticket, future.engine = ticket, weakref.ref(self)
        return ticket

    def _queue(self, tickets: list[Ticket]) -> None:
        """All of them or none: either the engine knows them, or `submit` raises."""
        with self._lock:
            self._check_open()
            self._book.enter(tickets)
            self._runner.post(lambda: self._core.add(tickets))

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Within, no forward runs and no request goes on: for changes of the modules that others may not see half done.
        They are as their owner has them, whatever requests that run have of their own.

        Raises `EngineClosedError` or `EngineDeadError`.
        """
        return self._runner.paused(self._post, self._check_open)

    def _post(self, message: Callable[[], object]) -> None:
        with self._lock:
            self._check_open()
            self._runner.post(message)

    def gathering(self) -> contextlib.AbstractContextManager[None]:
        """Within, what is submitted waits for the rest, a tenth of a second at most, to start with it."""
        return self._runner.gathering()

    def adopt(self, sibling: DiffusionPipeline) -> None:
        """Let requests run `sibling`, another pipeline over this one's modules (a ControlNet's, say); they share.
        Raises `EngineClosedError` or `EngineDeadError`, and `InvalidRequestError` for one that has none of its modules.
        """
        own = {id(module) for module in modules_of(self.pipeline).values()}
        if not any(id(module) in own for module in modules_of(sibling).values()):
            text = f"{type(sibling).__name__} has no module of {type(self.pipeline).__name__}; open an engine for it"
            raise InvalidRequestError(text, "pipeline")
        with self.paused():
            self._core.tenancy.adopt(sibling)

    def weights_changed(self, num_bytes: int) -> int | None:
        """While paused: weights of so many bytes came (below 0: went). Bytes left for forwards; None: no limit."""
        return self._core.weights_changed(num_bytes)

    def abort(self, request_id: str) -> bool:
        """End a request at the next forward with `AbortedError`. False when there is no such request."""
        known = request_id in self._book
        self._runner.post(lambda: self._core.abort(request_id))
        return known

    @property
    def exclusive(self) -> str | None:
        """Why requests run one at a time; None where they share."""
        return self._core.tenancy.exclusive

    @property
    def prompt_cache(self) -> PromptCache | None:
        """Where text encodings are kept. Several engines may share one; to be set before the first request."""
        return self._core.shortcuts.prompt_cache

    @prompt_cache.setter
    def prompt_cache(self, cache: PromptCache | None) -> None:
        self._core.shortcuts.prompt_cache = cache

    def statistics(self) -> EngineStatistics:
        """Counts since the start: forwards and rows by module, what isn't shared and why, where the time went.

        From any thread, at any time: a look at what the engine's thread goes on counting.
        """
        core = self._core
        counts, ends = core.executor.counts.statistics(), core.endings
        return replace(
            counts,
            exclusive=core.tenancy.exclusive,
            requests=RequestCounts(
                ok=ends.num_ok, error=ends.num_failed, aborted=ends.num_aborted, live=len(self._book)
            ),
            skipped=core.shortcuts.num_skipped,
            guidance_held=core.shortcuts.num_held,
            prompt_cache=None if self.prompt_cache is None else self.prompt_cache.statistics(),
            lists=core.lists.stats(),
            cost=core.cost.describe(),
            memory=core.memory.describe(),
            seconds=replace(counts.seconds, strand=core.runs.seconds, engine=core.own_seconds),
        )

    def stats(self) -> dict[str, Any]:
        """`statistics()` as plain data: {"forwards": {module: n}, "rows": {module: n}, "unfused": {...}, ...}."""
        return self.statistics().as_dict()

    def live(self) -> list[LiveRequest]:
        """Every request without a result, oldest first: request_id, state ("waiting" or "running"), step of num_steps,
        and the rows of the last forward that it took part in. A look from outside: it may be a forward late."""
        return self._book.live()

    @property
    def is_open(self) -> bool:
        """False once it was closed, or its thread has ended."""
        return self._dead is None

    def forwarding(self) -> tuple[str, ...]:
        """The requests that share the current forward, or the last one while others run; empty when idle."""
        return self._core.forwarding

    def close(self, timeout_s: float | None = None) -> None:
        """Stop; pending requests get `EngineClosedError`. The pipeline is left as its owner has it now.

        Waits for the forward that runs, at most `timeout_s`. May be called twice.
        """
        refuse_in_engine_thread(self._runner.thread, "close()")
        with self._lock:
            already, self._dead = self._dead, self._dead or EngineClosedError("the engine is closed; make a new one")
            if already is None:
                self._runner.stop()
        self._runner.thread.join(timeout_s)
        if already is None and self.lead is not None:
            self.lead.close()
        self._core.cost.save()

    def die_in_child(self) -> None:
        """This process was forked from the engine's: nothing runs here."""
        self._lock = threading.Lock()
        self._dead = EngineDeadError("the engine stayed in the parent process of this fork")
        self._book.clear()
        self._core.tenancy.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if isinstance(self._dead, EngineClosedError):
            raise self._dead
        if self._dead is not None:
            raise EngineDeadError(f"the engine's thread has ended: {self._dead!r}; make a new engine")

    def _die(self, error: BaseException) -> None:
        with self._lock:
            self._dead = self._dead or error
        dead = EngineDeadError(f"the engine's thread ended: {error!r}")
        dead.__cause__ = error
        for ticket in self._book.tickets:
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                ticket.future.set_exception(dead)
        self._book.clear()
        self._core.close(dead)
