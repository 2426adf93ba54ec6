"""`AsyncOmni`: `Omni` for asyncio."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from interlace.engine.engine import Engine
from interlace.models.loader import LoadedModel
from interlace.omni import Omni, name_of
from interlace.prompts import Prompt
from interlace.python.given import with_keywords, with_pictures
from interlace.request import Output, Progress
from interlace.stages.parse import Given
from interlace.stages.pipeline import Pipeline
from interlace.stages.replicas.front import ReplicaEngines

_ids = itertools.count()


class AsyncOmni:
    """`Omni` for asyncio: a thin queue around it. Takes what `Omni` takes."""

    def __init__(self, model: str | Path | LoadedModel | DiffusionPipeline | Pipeline = "demo", **options: Any) -> None:
        self.omni = Omni(model, **options)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: Given | Mapping[str, Any] = None,
        request_id: str | None = None,
        *,
        preview_every: int = 0,
        return_stages: bool | None = None,
        **keywords: Any,
    ) -> AsyncIterator[Progress | Output]:
        """Yields progress as steps are done, and last the `Output`. Leaving the loop early aborts the request.

        Takes what `Omni.submit` takes, and keyword arguments as `Omni.generate` does.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Progress | Output] = asyncio.Queue()

        def tell(event: Progress | Output) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, event)
            except RuntimeError:  # its loop is closed: nobody listens any more
                if not loop.is_closed():
                    raise

        name = request_id or name_of(prompt) or f"async-{next(_ids)}"
        future = self.omni.submit(
            with_pictures(prompt, keywords),
            with_keywords(sampling_params, keywords),
            request_id=name,
            on_progress=tell,
            preview_every=preview_every,
            return_stages=return_stages,
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
    def engine(self) -> Engine | ReplicaEngines:
        """The engine, for its `stats()`."""
        return self.omni.engine

    async def close(self) -> None:
        """Stop the engine; pending requests end with an error."""
        await asyncio.to_thread(self.omni.close)
