"""GET /v1/model_info, by which SGLang-Diffusion's benchmark client learns what to call the model."""

from fastapi import APIRouter, Request

from interlace.serve.state import lanes_of

router = APIRouter(tags=["dialects"])


@router.get("/v1/model_info", include_in_schema=False)
@router.get("/model_info", include_in_schema=False)
async def model_info(request: Request) -> dict[str, object]:
    """The model that draws, by the name under which requests may ask for it."""
    lane = lanes_of(request).draw
    return {"model_path": lane.name, "pipeline_class": lane.pipeline_name, "is_generation": True}
