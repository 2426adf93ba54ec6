"""Talks to an Interlace server with nothing but Python's own library: submits, follows, fetches, cancels.

Knows nothing of ComfyUI or of tensors.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib import error, request
from urllib.parse import quote

_TIMEOUT_S = 60.0  # of one answer, and of silence in the stream of events


class ServerError(RuntimeError):
    """What the server said was wrong, in its own words."""


class Server:
    """One server. `url` is its address, such as http://127.0.0.1:8000."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def submit(self, path: str, body: Mapping[str, Any]) -> str:
        """Hands a request in and returns its id. Raises `ServerError` where it is refused."""
        sent = {name: value for name, value in body.items() if value not in (None, "")}
        name = f"comfyui-{uuid.uuid4().hex}"
        head = {"Content-Type": "application/json", "X-Request-Id": name}
        made = self._ask("POST", path, json.dumps({**sent, "async": True}).encode(), head)
        return str(json.loads(made)["id"])

    def events(self, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to a request until its end: step, preview, image, and last done or error."""
        with self._open("GET", f"/v1/requests/{quote(job)}/events") as answer:
            kind = ""
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])

    def picture(self, job: str, index: int) -> bytes:
        """A finished picture's file."""
        return self._ask("GET", f"/v1/requests/{quote(job)}/content?index={index}")

    def forget(self, job: str) -> None:
        """Ends a request that is under way; drops the result of one that is over."""
        self._ask("DELETE", f"/v1/requests/{quote(job)}")

    def _ask(self, method: str, path: str, body: bytes | None = None, head: Mapping[str, str] | None = None) -> bytes:
        with self._open(method, path, body, head) as answer:
            return bytes(answer.read())

    def _open(self, method: str, path: str, body: bytes | None = None, head: Mapping[str, str] | None = None) -> Any:
        headers = {**self._headers, **(head or {})}
        try:
            return request.urlopen(request.Request(self._url + path, body, headers, method=method), timeout=_TIMEOUT_S)
        except error.HTTPError as refusal:
            raise ServerError(_words(refusal)) from None
        except OSError as failure:
            text = f"no Interlace server at {self._url} ({failure}); start one with `interlace serve`"
            raise ServerError(text) from failure


def _words(refusal: error.HTTPError) -> str:
    data = refusal.read().decode("utf-8", "replace")
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {refusal.code}: {data[:200]}"
