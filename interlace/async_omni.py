"""`AsyncOmni`: `Omni` for asyncio."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from interlace.engine.thread import Engine
from interlace.models.loader import LoadedModel
from interlace.omni import Omni, Prompt
from interlace.request import Output, Progress, SamplingParams

_ids = itertools.count()


class AsyncOmni:
    """`Omni` for asyncio: a thin queue around it. Takes what `Omni` takes."""

    def __init__(self, model: str | Path | LoadedModel = "demo", **options: Any) -> None:
        self.omni = Omni(model, **options)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        preview_every: int = 0,
        **options: Any,
    ) -> AsyncIterator[Progress | Output]:
        """Yields progress as steps are done, and last the `Output`. Leaving the loop early aborts the request.

        `options` are further ones of `submit`: over several stages, `return_stages`.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Progress | Output] = asyncio.Queue()

        def tell(event: Progress | Output) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        name = request_id or f"async-{next(_ids)}"
        future = self.omni.submit(
            prompt, sampling_params, request_id=name, on_progress=tell, preview_every=preview_every, **options
        )
        future.add_done_callback(lambda done: tell(done.result()))
        done = False
        try:
            while not done:
                event = await events.get()
                done = isinstance(event, Output)
                yield event
        finally:
            if not done:
                self.omni.abort(name)

    def abort(self, request_id: str) -> bool:
        """End a request at the next forward. False when there is no such request."""
        return self.omni.abort(request_id)

    @property
    def engine(self) -> Engine:
        """The engine, for its `stats()`."""
        return self.omni.engine

    async def close(self) -> None:
        """Stop the engine; pending requests end with an error."""
        await asyncio.to_thread(self.omni.close)
