"""For models that can't be batched continuously: prompts of equal length share one `generate`, the others wait.

Equal lengths need no padding, so that a request's text doesn't depend on its company. Speaks as transformers' manager.
"""

import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from interlace.engine.threads import release_team
from interlace.stages.language.sampling import gumbel, noise_key, warp


@dataclass
class WaveRequest:
    """A request, and at the same time what is told of it."""

    request_id: str
    tokens: list[int]
    max_new_tokens: int
    settings: dict[str, Any]
    generated_tokens: list[int] = field(default_factory=list)
    error: str | None = None
    done: bool = False
    cancelled: bool = False

    def is_finished(self) -> bool:
        return self.done


class WaveManager:
    """Runs `model.generate` in a thread, wave after wave."""

    def __init__(self, model: PreTrainedModel, max_num_seqs: int) -> None:
        self._model, self._max_num_seqs = model, max_num_seqs
        self._waiting: deque[WaveRequest] = deque()
        self._known: dict[str, WaveRequest] = {}
        self._results: queue.SimpleQueue[WaveRequest] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name="interlace-waves", daemon=True)
        self._thread.start()

    def add_request(self, tokens: list[int], *, request_id: str, max_new_tokens: int, **settings: object) -> None:
        request = WaveRequest(request_id, tokens, max_new_tokens, settings)
        with self._changed:
            self._known[request_id] = request
            self._waiting.append(request)
            self._changed.notify()

    def cancel_request(self, request_id: str) -> None:
        """It leaves the line, or its wave at the next token."""
        with self._changed:
            request = self._known.get(request_id)
            if request is not None:
                request.cancelled = True
                self._changed.notify()

    def get_result(self, timeout: float) -> WaveRequest | None:
        try:
            return self._results.get(timeout=timeout)
        except queue.Empty:
            return None

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self, hard_stop: bool = True) -> None:
        with self._changed:
            self._closed = True
            for request in self._known.values():
                request.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _main(self) -> None:
        while wave := self._next():
            try:
                self._generate(wave)
            except Exception as error:
                for request in wave:
                    request.error = request.error or str(error)
            if not self._waiting:
                release_team()
            for request in wave:
                self._known.pop(request.request_id, None)
                if not request.done:  # those that ended by themselves are told of
                    request.done = True
                    self._results.put(request)

    def _next(self) -> list[WaveRequest]:
        """The oldest request with others of its length; none when closed."""
        with self._changed:
            while not self._closed:
                self._drop_cancelled()
                if self._waiting:
                    break
                self._changed.wait()
            if self._closed:
                return []
            length = len(self._waiting[0].tokens)
            fitting = [request for request in self._waiting if len(request.tokens) == length][: self._max_num_seqs]
            self._waiting = deque(request for request in self._waiting if request not in fitting)
            return fitting

    def _drop_cancelled(self) -> None:
        """What nobody wants any more leaves the line; with the lock held."""
        for request in [one for one in self._waiting if one.cancelled]:
            self._waiting.remove(request)
            self._known.pop(request.request_id, None)
            request.done = True
            self._results.put(request)

    @torch.no_grad()
    def _generate(self, wave: list[WaveRequest]) -> None:
        ids = torch.tensor([request.tokens for request in wave], device=self._model.device)
        config = self._model.generation_config
        ends = config.eos_token_id
        ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
        pad = config.pad_token_id if config.pad_token_id is not None else min(ends - {None}, default=0)
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max(request.max_new_tokens for request in wave),
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([_ChooseInWave(wave)]),
            stopping_criteria=StoppingCriteriaList([_WatchWave(wave, ends, self._results)]),
        )


class _ChooseInWave(LogitsProcessor):
    """Each row's scores with its own warping and its own noise: the largest is its sample."""

    def __init__(self, wave: list[WaveRequest]) -> None:
        self._wave = wave

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        position, settings = input_ids.shape[1], [request.settings for request in self._wave]
        keys = [noise_key(one["seed"], position) if one["seed"] >= 0 else 0 for one in settings]

        def column(name: str) -> Tensor:
            return torch.tensor([one[name] for one in settings], device=scores.device)

        warped = warp(scores.float(), column("temperature"), column("top_k"), column("top_p"))
        return warped + gumbel(torch.tensor(keys, device=scores.device), scores.shape[-1])


class _WatchWave(StoppingCriteria):
    """Tells of every token; ends a row at its limit, its last token or when nobody wants it any more."""

    def __init__(self, wave: list[WaveRequest], ends: set[int | None], results: "queue.SimpleQueue[WaveRequest]"):
        self._wave, self._ends, self._results = wave, ends, results

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(
            [self._over(one, row) for one, row in zip(self._wave, input_ids.tolist(), strict=True)],
            device=input_ids.device,
        )

    def _over(self, request: WaveRequest, row: list[int]) -> bool:
        if request.done:
            return True
        request.generated_tokens = row[len(request.tokens) :]
        last, count = row[-1], len(request.generated_tokens)
        request.done = last in self._ends or count >= request.max_new_tokens or request.cancelled
        self._results.put(request)
        return request.done
