"""A file as an answer, or the part of it that was asked for: players seek in films by Range. Knows nothing of jobs.

Source: RFC 9110, sections 14.1.2 (byte ranges), 14.4 (Content-Range), 15.5.17 (416).
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from interlace.serve.http.errors import ApiError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})$")


def file_answer(request: Request, data: bytes, media_type: str, name: str | None = None) -> Response:
    """200 with all of `data`, or 206 with one range of it. `name` is what a browser saves it as.

    Several ranges, other units, and a range of a version (If-Range) are answered with everything, as the RFC allows.
    Raises `ApiError` 416 for a range beyond the end.
    """
    headers = {"Cache-Control": "private, no-store", "Accept-Ranges": "bytes"}
    if name is not None:
        headers["Content-Disposition"] = f'inline; filename="{name}"'
    found = _RANGE.match(request.headers.get("range", "").replace(" ", ""))
    if found is None or "if-range" in request.headers or found.groups() == ("", ""):
        return Response(data, media_type=media_type, headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start > end:
        text = f"bytes {first}-{last} of a file of {len(data)} bytes; expected a range within it"
        raise ApiError(416, text, code="range_not_satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, media_type=media_type, headers=headers)
