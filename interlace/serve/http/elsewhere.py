"""The same endpoints under other services' paths, and the nearest endpoint to a path that leads nowhere.

OpenRouter's and Azure's clients put things of their own into the path. Such a path becomes ours before it is routed.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from interlace.serve.http.forwarded import path_of
from interlace.serve.leniency.names import nearest

_AZURE = re.compile(r"/openai/deployments/([^/]{1,256})/(.+)")
_PREFIXES = ("/api/v1/", "/openai/v1/")  # OpenRouter's and Azure's newer one


class OtherPaths:
    """An ASGI layer that translates paths. Azure's deployment becomes the `model` of a body that names none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            path, deployment = translated(path_of(scope))
            if deployment is not None:
                scope.setdefault("state", {})["deployment"] = deployment
            scope = {**scope, "path": scope.get("root_path", "") + path}
        await self.app(scope, receive, send)


def translated(path: str) -> tuple[str, str | None]:
    """Our path for another service's, and the deployment that it names; a path of ours as it is."""
    found = _AZURE.fullmatch(path)
    if found is not None:
        path = f"/v1/{found[2]}"
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            path = f"/v1/{path.removeprefix(prefix)}"
    return path, unquote(found[1]) if found else None


def nearest_endpoint(path: str, endpoints: Iterable[str]) -> str | None:
    """The endpoint that a wrong path probably meant: one with the same end, else one that is spelt like it."""
    known = sorted(endpoints, key=len)
    plain = re.sub(r"/+", "/", path[:200]).rstrip("/").lower()
    parts = plain.strip("/").split("/")
    for count in range(len(parts), 0, -1):
        end = "/" + "/".join(parts[-count:])
        for endpoint in known:
            if endpoint.endswith(end) and len(end) > 3:
                return endpoint
    return nearest(plain, known)
