"""A loopback server that speaks OpenAI's and Google's image APIs, with faults on demand, and counts what it is sent."""

import base64
import contextlib
import email
import hashlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from PIL import Image

Fault = str | None
_WAIT_S = 120.0  # the longest for what comes at once on a machine that has time


def colour(prompt: str) -> tuple[int, int, int]:
    digest = hashlib.sha256(prompt.encode()).digest()
    return digest[0], digest[1], digest[2]


def png(prompt: str, size: tuple[int, int] = (16, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour(prompt)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Seen:
    """One request that came in."""

    path: str
    prompt: str
    body: dict[str, Any]
    pictures: list[bytes]
    key: str | None
    at: float = field(default_factory=time.monotonic)


class ApiServer:
    """`fault(seen, attempt)` names what goes wrong with a request: "429 0.2" (with Retry-After), "500", "400",
    "hang" (no answer while the server runs), "bad json", "half json", "close", "cut", "bad picture", "url", or None.
    Until `at_once` requests were there at one time none is answered."""

    def __init__(
        self,
        fault: Callable[[Seen, int], Fault] = lambda seen, attempt: None,
        delay_s: float = 0.0,
        at_once: int = 1,
    ) -> None:
        self.fault, self.delay_s, self.at_once = fault, delay_s, at_once
        self._over, self._met = threading.Event(), threading.Event()
        self.seen: list[Seen] = []
        self.most_at_once = self._at_once = 0
        self._attempts: dict[str, int] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def do_GET(self) -> None:
                send(self, 200, png(unquote(self.path.rpartition("/")[2].removesuffix(".png"))), "image/png")

            def log_message(self, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None: ...  # clients that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = self.root + "/v1"

    @contextlib.contextmanager
    def running(self) -> Iterator["ApiServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._server.shutdown()
            self._server.server_close()

    @property
    def prompts(self) -> list[str]:
        return [seen.prompt for seen in self.seen]

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        seen = read(request)
        with self._lock:
            self.seen.append(seen)
            attempt = self._attempts[seen.prompt] = self._attempts.get(seen.prompt, 0) + 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            if self.most_at_once >= self.at_once:
                self._met.set()
            fault = self.fault(seen, attempt)
        try:
            self._met.wait(_WAIT_S)
            self._over.wait(_WAIT_S if fault == "hang" else self.delay_s)
        finally:
            with self._lock:
                self._at_once -= 1
        answer(request, seen, fault, self.root)


def read(request: BaseHTTPRequestHandler) -> Seen:
    data = request.rfile.read(int(request.headers["content-length"]))
    key = request.headers.get("x-goog-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    pictures: list[bytes] = []
    if request.headers.get_content_type() == "multipart/form-data":
        body: dict[str, Any] = {}
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        for part in email.message_from_bytes(head + data).get_payload():
            name = part.get_param("name", header="content-disposition")
            if part.get_filename():
                pictures.append(part.get_payload(decode=True))
                body.setdefault("_files", []).append(name)
            else:
                body[name] = part.get_payload(decode=True).decode()
        prompt = body["prompt"]
    else:
        body = json.loads(data)
        prompt = body.get("prompt")
        if "instances" in body:
            prompt = body["instances"][0]["prompt"]
        elif "contents" in body:
            parts = body["contents"][0]["parts"]
            prompt = next(part["text"] for part in parts if "text" in part)
            inline = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
            pictures = [base64.b64decode(text.replace("-", "+").replace("_", "/")) for text in inline]
    return Seen(path=request.path, prompt=prompt, body=body, pictures=pictures, key=key or None)


def answer(request: BaseHTTPRequestHandler, seen: Seen, fault: Fault, root: str) -> None:
    picture = png(seen.prompt)
    if fault == "close":
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
    elif fault == "bad json":
        send(request, 200, b"{this is no json")
    elif fault and re.match(r"\d{3}", fault):
        status, _, wait = fault.partition(" ")
        headers = {"retry-after": wait} if wait else {}
        message = f"the server says {status} to {seen.key}"
        error = {"message": message, "code": int(status), "status": "FAULT", "type": "fault"}
        send(request, int(status), json.dumps({"error": error}).encode(), **headers)
    else:
        text = base64.b64encode(picture[:-30] if fault == "bad picture" else picture).decode()
        made = made_answer(seen, text, fault, root)
        data = json.dumps(made).encode()
        if fault == "half json":
            data = data[: len(data) // 2]
        send(request, 200, data, cut=fault == "cut")


def made_answer(seen: Seen, text: str, fault: Fault, root: str) -> dict[str, Any]:
    if seen.path.endswith(":predict"):
        if fault == "blocked":
            return {"predictions": [{"raiFilteredReason": "it is not nice"}]}
        return {"predictions": [{"bytesBase64Encoded": text, "mimeType": "image/png"}]}
    if "generateContent" in seen.path:
        if fault == "blocked":
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        if fault == "unsafe":
            return {"candidates": [{"finishReason": "IMAGE_SAFETY"}]}
        parts = [{"text": "Here it is."}, {"inlineData": {"mimeType": "image/png", "data": text}}]
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    if fault == "url":
        return {"created": 1, "data": [{"url": f"{root}/files/{seen.prompt}.png"}]}
    return {"created": 1, "data": [{"b64_json": text}]}


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    content_type: str = "application/json",
    *,
    cut: bool = False,
    **headers: str,
) -> None:
    request.send_response(status)
    request.send_header("content-type", content_type)
    request.send_header("content-length", str(len(data)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data[: len(data) // 2] if cut else data)
    if cut:
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
