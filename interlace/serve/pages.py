"""What browsers get: the page at /, the API's reference at /docs, their files. Nothing comes from elsewhere."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, Response

_STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'"
)
_PAGES = {"/": "index.html", "/docs": "docs/index.html"}


def add_pages(app: FastAPI) -> None:
    """The pages and their files, where they are there."""
    if not _STATIC.is_dir():
        return
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    for path, name in _PAGES.items():
        if (_STATIC / name).is_file():
            _add_page(app, path, _STATIC / name)


def _add_page(app: FastAPI, path: str, file: Path) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return FileResponse(file, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})
