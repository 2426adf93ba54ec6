"""A request on its way through the parts: what it asked for, what was written and spoken so far."""

import threading
from concurrent.futures import Future
from time import monotonic
from typing import Any

import torch

from interlace.request import Metrics, Output, Progress, Request
from interlace.stages.language.text_stream import TextStream
from interlace.stages.omni.run import Links
from interlace.stages.stage import Listener


class Spoken:
    """`key` is its name at the parts' engines; `lock` guards `left` and `error`."""

    def __init__(self, request: Request, key: str, stream: TextStream, listener: Listener | None) -> None:
        self.request, self.key, self.stream, self.listener = request, key, stream, listener
        self.future: Future[Output] = Future()
        self.links = Links()
        self.left = 0  # parts that are not done
        self.error: BaseException | None = None
        self.waveform: torch.Tensor | None = None
        self.metrics = Metrics()
        self.submitted = monotonic()
        self.started: float | None = None  # when its first token came
        self.lock = threading.Lock()

    def tell(self, **event: Any) -> None:
        if self.listener is not None:
            step = len(self.stream.tokens)
            self.listener(Progress(**{"request_id": self.request.request_id, "step": step, "num_steps": 0, **event}))

    def take(self, tokens: list[int]) -> bool:
        """In the thinker's engine: the tokens so far; whether a stop text was written."""
        self.started = self.started or monotonic()
        new = self.stream.take(tokens, last=False)
        if new:
            self.tell(kind="text", text=new)
        return self.stream.stopped

    def hear(self, piece: torch.Tensor) -> None:
        """In the code2wav's engine: some sound more."""
        self.tell(kind="audio", audio=piece.cpu().numpy())

    def written(self) -> None:
        """The text is done."""
        rest = self.stream.take(self.stream.tokens, last=True)
        self.metrics.generate_s = monotonic() - (self.started or self.submitted)
        if rest:
            self.tell(kind="text", text=rest)

    def output(self, sample_rate: int) -> Output:
        """What it came to."""
        now, metrics, failed = monotonic(), self.metrics, self.error
        metrics.queue_s = (self.started or now) - self.submitted
        metrics.total_s, metrics.num_tokens = now - self.submitted, len(self.stream.tokens)
        error = failed if failed is None or isinstance(failed, Exception) else RuntimeError(repr(failed))
        output = Output(request_id=self.request.request_id, prompt=self.request.prompt, error=error, metrics=metrics)
        if error is None:
            output.text = self.stream.text
            if self.waveform is not None:
                output.audio = [self.waveform.reshape(1, -1).cpu().numpy()]
                output.sample_rate = sample_rate
        return output
