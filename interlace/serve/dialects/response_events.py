"""OpenAI's response object, and the events in which a stream builds it up."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from interlace.errors import AbortedError
from interlace.serve.http.errors import api_error
from interlace.serve.http.sse import Frame
from interlace.serve.jobs.job import Event, Part, RequestJob
from interlace.serve.jobs.pictures import encode_preview

Json = dict[str, Any]
_CALL = "response.image_generation_call"


def response_of(job: RequestJob, tools: Sequence[Json], status: str | None = None) -> Json:
    """The response as it stands; once it is completed with its output, and tokens."""
    status = status or ("completed" if job.state == "completed" else "failed" if job.error else "in_progress")
    done = status == "completed"
    return {
        "id": f"resp_{job.id}",
        "object": "response",
        "created_at": int(job.created),
        "status": status,
        "background": False,
        "error": {"code": "server_error", "message": job.error.message} if job.error else None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": job.order.lane.name,
        "output": [item for part in job.parts for item in output_of(job, part)] if done else [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "temperature": None,
        "top_p": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": list(tools),
        "usage": _usage(job) if done else None,
        **({"warnings": list(job.order.warnings)} if job.order.warnings else {}),
    }


def output_of(job: RequestJob, part: Part) -> Iterator[Json]:
    """The text, if a stage wrote one, then the picture."""
    if part.text is not None:
        yield _message(job, part, part.text)
    yield _call(job, part, "completed")


def _message(job: RequestJob, part: Part, text: str, status: str = "completed") -> Json:
    content = [_text(text)] if status == "completed" else []
    head = {"id": f"msg_{job.id}.{part.index}", "type": "message", "role": "assistant"}
    return {**head, "status": status, "content": content}


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(job: RequestJob, part: Part, status: str) -> Json:
    order = job.order
    width, height = part.size or order.size
    facts = {"output_format": order.encoding.name, "size": f"{width}x{height}", **order.facts}
    name = f"ig_{job.id}" if len(job.parts) == 1 else f"ig_{job.id}.{part.index}"
    call = {"id": name, "type": "image_generation_call", "status": status, "result": None}
    if status != "completed":
        return call
    assert part.file is not None
    result = base64.b64encode(part.file.data).decode()
    return {**call, "result": result, "revised_prompt": part.text or order.prompt, "seed": part.seed, **facts}


def _usage(job: RequestJob) -> Json:
    asked = job.order.num_text_tokens + job.order.num_image_tokens
    made = sum((part.size[0] // 16) * (part.size[1] // 16) for part in job.parts if part.size)
    made += sum(part.metrics.num_tokens for part in job.parts if part.metrics)
    details: Json = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {"input_tokens": asked, "output_tokens": made, "total_tokens": asked + made, **details}


async def events_of(
    job: RequestJob, events: "asyncio.Queue[Event]", tools: Sequence[Json]
) -> AsyncGenerator[Frame, None]:
    """The stream of one response: each event knows its number, `response.completed` is the last."""
    writing = _Writing(job)
    for name in ("created", "in_progress"):
        yield writing.event(f"response.{name}", response=response_of(job, tools, "in_progress"))
    while True:
        event = await events.get()
        if event.kind == "error":
            error = job.error or api_error(AbortedError("the request ended"))
            yield writing.event("error", code=error.code, message=error.message, param=error.param)
            yield writing.event("response.failed", response=response_of(job, tools, "failed"))
            return
        if event.kind == "done":
            yield writing.event("response.completed", response=await asyncio.to_thread(response_of, job, tools))
            return
        for frame in await asyncio.to_thread(writing.told, event):
            yield frame


class _Writing:
    """What has been told of each picture so far. Output items are numbered in the order in which they begin."""

    def __init__(self, job: RequestJob) -> None:
        self._job = job
        self._count = 0
        self._texts: dict[int, tuple[int, str]] = {}  # by part: the number of its item, what was written so far
        self._calls: dict[int, int] = {}

    def event(self, kind: str, **facts: Any) -> Frame:
        number, self._count = self._count, self._count + 1
        return kind, {"type": kind, "sequence_number": number, **facts}

    def told(self, event: Event) -> list[Frame]:
        """The frames that one event of the job comes to."""
        return list(self._told(event))

    def _told(self, event: Event) -> Iterator[Frame]:
        part = event.part
        if part is None:
            return
        if event.kind == "text" and event.text:
            yield from self._write(part, event.text)
        elif event.kind in ("step", "preview", "image"):
            yield from self._begin(part)
            if event.kind == "preview":
                yield self._partial(event, part)
            elif event.kind == "image":
                yield from self._end(part)

    def _write(self, part: Part, text: str) -> Iterator[Frame]:
        if part.index not in self._texts:
            number = len(self._texts) + len(self._calls)
            self._texts[part.index] = number, ""
            item = _message(self._job, part, "", "in_progress")
            yield self.event("response.output_item.added", output_index=number, item=item)
            yield self.event("response.content_part.added", **self._position(part), part=_text(""))
        number, written = self._texts[part.index]
        self._texts[part.index] = number, written + text
        yield self.event("response.output_text.delta", **self._position(part), delta=text, logprobs=[])

    def _position(self, part: Part) -> Json:
        item = _message(self._job, part, "")["id"]
        return {"item_id": item, "output_index": self._texts[part.index][0], "content_index": 0}

    def _close_text(self, part: Part) -> Iterator[Frame]:
        number, text = self._texts[part.index]
        yield self.event("response.output_text.done", **self._position(part), text=text, logprobs=[])
        yield self.event("response.content_part.done", **self._position(part), part=_text(text))
        item = _message(self._job, part, text)
        yield self.event("response.output_item.done", output_index=number, item=item)

    def _begin(self, part: Part) -> Iterator[Frame]:
        if part.index in self._calls:
            return
        if part.index in self._texts:
            yield from self._close_text(part)
        self._calls[part.index] = len(self._texts) + len(self._calls)
        item = _call(self._job, part, "in_progress")
        yield self.event("response.output_item.added", output_index=self._calls[part.index], item=item)
        for state in ("in_progress", "generating"):
            yield self.event(f"{_CALL}.{state}", **self._of_call(part))

    def _partial(self, event: Event, part: Part) -> Frame:
        data = base64.b64encode(encode_preview(event, self._job.order)).decode()
        facts = {"partial_image_index": event.index, "partial_image_b64": data}
        return self.event(f"{_CALL}.partial_image", **self._of_call(part), **facts)

    def _end(self, part: Part) -> Iterator[Frame]:
        yield self.event(f"{_CALL}.completed", **self._of_call(part))
        item = _call(self._job, part, "completed")
        yield self.event("response.output_item.done", output_index=self._calls[part.index], item=item)

    def _of_call(self, part: Part) -> Json:
        return {"item_id": _call(self._job, part, "in_progress")["id"], "output_index": self._calls[part.index]}
