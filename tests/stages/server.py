"""A small server on a real socket that speaks OpenAI's wire format, and does what it is told to go wrong."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Answers a prompt with its words in capitals. A prompt with a fault's name in it gets that fault."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.together = threading.Barrier(1)  # "short" prompts are answered so many at a time
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server.lock:
                    server.requests.append({**body, "path": self.path})
                    server.times.append(time.monotonic())
                    server.now += 1
                    server.most = max(server.most, server.now)
                server.wait(prompt_of(body))
                with server.lock:
                    server.now -= 1  # before the answer, which may bring the next one
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    server.answer(self, body)

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def tries(self, word: str) -> int:
        """How often a prompt with this word in it was asked for."""
        return sum(word in prompt_of(body) for body in self.requests)

    def wait(self, prompt: str) -> None:
        """ "slow" ones for so long that nobody waits for them."""
        if "slow" in prompt:
            self.over.wait(600)
        elif "short" in prompt:
            self.together.wait(120)

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        prompt = prompt_of(body)
        words = [word.upper() for word in prompt.split()]
        tries = self.tries(prompt)
        if "busy" in prompt and tries < 3:
            return plain(handler, 429, {"error": {"message": "too many"}}, {"Retry-After": "0.3"})
        if "refused" in prompt:
            return plain(handler, 400, {"error": {"message": "this model takes no such thing"}})
        if "down" in prompt:
            return plain(handler, 503, {"error": {"message": "out to lunch"}})
        if "garbage" in prompt:
            return plain(handler, 200, b"<html>not what you asked for</html>")
        if "nonsense" in prompt:
            return plain(handler, 200, {"object": "surprise", "choices": []})
        if "gone" in prompt or ("once" in prompt and tries < 2):
            return self.break_off(handler, words, bool(body.get("stream")))
        if body.get("stream"):
            return stream(handler, words, "chat" in handler.path, True)
        return plain(handler, 200, whole(words, "chat" in handler.path))

    def break_off(self, handler: BaseHTTPRequestHandler, words: list[str], streaming: bool) -> None:
        """The connection is lost in the middle of the answer."""
        if streaming:
            stream(handler, words[:2], True, False)
        else:
            handler.send_response(200)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"id": "x", ')
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(2)


def prompt_of(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    content = body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def plain(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def whole(words: list[str], chat: bool) -> dict[str, Any]:
    text = " ".join(words)
    part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
    choices = [{"index": 0, "finish_reason": "stop", **part}]
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}


def stream(handler: BaseHTTPRequestHandler, words: list[str], chat: bool, finish: bool) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    for place, word in enumerate(words):
        text = word if place == 0 else f" {word}"
        part: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
        event(handler, {"index": 0, "finish_reason": None, **part})
    if finish:
        event(handler, {"index": 0, "finish_reason": "stop", **({"delta": {}} if chat else {"text": ""})})
        handler.wfile.write(b"data: [DONE]\n\n")
    handler.close_connection = True


def event(handler: BaseHTTPRequestHandler, choice: dict[str, Any]) -> None:
    data = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    handler.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
    handler.wfile.flush()
