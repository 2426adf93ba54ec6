"""POST /generate: one or many prompts, texts or objects with pictures and parameters, answered together."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError, api_error, invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.job import RequestJob, timings
from interlace.serve.jobs.models import Lanes
from interlace.serve.jobs.staged import stage_args_of
from interlace.serve.jobs.waiting import finished
from interlace.serve.orders.fields import EditFields, GenerateFields, GenerationFields
from interlace.serve.orders.images import edit_order, generation_order
from interlace.serve.orders.order import Order
from interlace.serve.state import lanes_for, registry_of

router = APIRouter(tags=["generate"], responses=ERRORS)
_NAMES = {"num_images": "n", "extra": "extra_params"}  # of `SamplingParams`, as fields call them


@router.post("/generate", openapi_extra=body_of(GenerateFields, form=False))
async def generate(request: Request) -> dict[str, object]:
    """Outputs in the order of the prompts; one that failed has an `error` in place of `images`.

    Where every prompt failed, or one can't be accepted, the answer as a whole is an error.
    """
    fields = (await read_body(request, forms=False)).as_fields(GenerateFields)
    lanes = await lanes_for(request, _model_of(fields))
    own, stages = stage_args_of(fields.stage_args, lanes.draw)
    items = _items(fields, own, lanes.settings.max_batch_prompts)
    orders = await asyncio.to_thread(lambda: [_order(item, i, len(items), lanes) for i, item in items])
    orders = [order.over_stages(stages) for order in orders]
    registry, state = registry_of(request), request.state
    registry.admission.check(state.client, sum(order.num_images for order in orders))
    warnings = list(dict.fromkeys([*fields.warnings, *(text for order in orders for text in order.warnings)]))
    state.warnings += warnings
    state.note.update({"model": orders[0].lane.name, "n": sum(order.num_images for order in orders)})
    ids = [state.request_id if len(orders) == 1 else f"{state.request_id}-{i}" for i in range(len(orders))]
    jobs: list[RequestJob] = []
    try:
        with state.coming:
            for order, job_id in zip(orders, ids, strict=True):
                jobs.append(registry.submit(order, job_id=job_id, kind="generate", client=state.client))
        answer = await _answer(request, jobs)
        return {**answer, "warnings": warnings} if warnings else answer
    finally:
        for job in jobs:
            registry.cancel(job)
            registry.release(job)


async def _answer(request: Request, jobs: list[RequestJob]) -> dict[str, Any]:
    for job in jobs:
        try:
            await finished(request, registry_of(request), job)
        except ApiError as error:
            if error.status == 499:
                raise
    errors = [job.error for job in jobs if job.error is not None]
    if len(errors) == len(jobs):
        raise errors[0]
    outputs = await asyncio.to_thread(lambda: [_output(job) for job in jobs])
    return {"id": request.state.request_id, "model": jobs[0].order.lane.name, "outputs": outputs}


def _model_of(fields: GenerateFields) -> str | None:
    """The model of all prompts. Raises `ApiError` for several: each may have to make room for the other."""
    given = fields.prompts if fields.prompts is not None else fields.prompt
    listed = given if isinstance(given, list) else [given]
    said = {one.get("model") or fields.model for one in listed if isinstance(one, Mapping)}
    named = {str(name) for name in said or {fields.model} if name}
    if len(named) > 1:
        raise invalid(f"models are {', '.join(sorted(named))}; expected one in a request, send several", "model")
    return next(iter(named), None)


def _items(fields: GenerateFields, own: Mapping[str, Any], most: int) -> list[tuple[int, dict[str, Any]]]:
    """Every prompt as an object of its own, with what holds for all; `own` is what stages' arguments say."""
    own = dict(own)
    if fields.prompt is None and fields.prompts is None:
        fields.prompt = own.pop("prompt", None)
    own.pop("prompt", None)
    if (fields.prompt is None) == (fields.prompts is None):
        raise invalid("expected either prompt or prompts", "prompt", "missing_field")
    given = fields.prompts if fields.prompts is not None else fields.prompt
    prompts = given if isinstance(given, list) else [given]
    if not 1 <= len(prompts) <= most:
        raise invalid(f"{len(prompts)} prompts; this server allows 1 to {most} in a request", "prompt")
    common: dict[str, Any] = dict(fields.sampling_params or {})
    common |= own
    common |= {"model": fields.model, "output_format": fields.output_format}
    if fields.multi_modal_data is not None:
        common["multi_modal_data"] = fields.multi_modal_data
    items = [{"prompt": one} if isinstance(one, str) else dict(one or {}) for one in prompts]
    return [(i, {**common, **item}) for i, item in enumerate(items)]


def _order(item: Mapping[str, Any], index: int, count: int, lanes: Lanes) -> Order:
    """As the Images API would have it, so that both honour and refuse alike."""
    try:
        values = {_NAMES.get(name, name): value for name, value in item.items() if value is not None}
        media = values.pop("multi_modal_data", None)
        for name in ("stream", "async", "partial_images", "response_format", "user"):
            if name in values:
                raise invalid(f"{name} is no parameter of /generate; use /v1/images/generations", name)
        if media is None:
            return generation_order(GenerationFields.of(values, strict_fields=lanes.settings.strict_fields), lanes)
        return _edit(values, media, lanes)
    except Exception as error:
        problem = api_error(error)
        if count > 1:
            problem.message = f"prompt {index}: {problem.message}"
        raise problem from error


def _edit(values: dict[str, Any], media: Any, lanes: Lanes) -> Order:
    if not isinstance(media, Mapping) or "image" not in media or set(media) - {"image", "mask_image"}:
        raise invalid('multi_modal_data: expected {"image": base64 or a list of it}', "multi_modal_data")
    listed = media["image"] if isinstance(media["image"], list) else [media["image"]]
    settings = lanes.settings
    lanes.choose(values.get("model"), edit=True)
    images = [decode_image(image_bytes(one, settings), settings) for one in listed[: settings.max_input_images + 1]]
    mask = media.get("mask_image")
    alpha = decode_image(image_bytes(mask, settings, "mask"), settings, "mask", alpha=True) if mask else None
    return edit_order(EditFields.of(values, strict_fields=lanes.settings.strict_fields), images, alpha, lanes)


def _output(job: RequestJob) -> dict[str, Any]:
    facts: dict[str, Any] = {"request_id": job.id, "prompt": job.order.prompt}
    if job.error is not None:
        return {**facts, "error": job.error.body["error"]}
    images = [
        {
            **({"text": part.text} if part.text is not None else {}),  # what a language model wrote for it
            "b64_json": base64.b64encode(part.file.data).decode(),
            "seed": part.seed,
            "width": part.size[0],
            "height": part.size[1],
            "metrics": timings(part.metrics),
        }
        for part in job.parts
        if part.file is not None and part.size is not None
    ]
    return {**facts, "images": images, "output_format": job.order.encoding.name}
