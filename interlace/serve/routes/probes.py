"""What every server of ours answers to those who watch it, whatever it serves: alive, which version, its counts."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from interlace import __version__
from interlace.serve.http.openapi import ERRORS

router = APIRouter(tags=["status"], responses=ERRORS)


@router.get("/liveness")
async def liveness() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of Interlace."""
    return {"version": __version__}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.server.metrics.render(), media_type=CONTENT_TYPE_LATEST)
