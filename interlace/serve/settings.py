"""Every limit and switch of the server. Flags, YAML keys, environment names and help texts come from these fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from interlace.checks import check_choice, check_number
from interlace.errors import InvalidRequestError
from interlace.serve.logs import LogFormat, LogLevel

_POSITIVE = ("max_body_mb", "max_bodies_mb", "max_input_pixels", "result_ttl", "max_results_mb", "body_timeout_s",
             "header_timeout_s", "send_timeout_s", "stream_keep_alive_s", "idle_timeout_s",
             "image_url_timeout_s")  # fmt: skip
_COUNTS = ("max_image_size", "max_steps", "max_n", "max_input_images", "max_prompt_chars", "max_batch_prompts",
           "max_frames")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How one server behaves. Immutable; raises `InvalidRequestError` for a value that makes no sense."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface (then use --api-key)."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    api_key: tuple[str, ...] = ()
    """Keys that clients must send as `Authorization: Bearer KEY`; none: anybody may. INTERLACE_API_KEY works too."""
    api_key_file: str | None = None
    """A file with one key a line (blank lines and # comments are skipped), beside those of --api-key."""
    cors_origin: tuple[str, ...] = ()
    """Origins of web pages elsewhere that may call this server, such as https://example.org, or *; none by default."""
    model_alias: tuple[str, ...] = ()
    """Further names that requests may give as `model`, such as gpt-image-1."""
    accept_any_model: bool = False
    """Serve whatever `model` a request names."""
    response_format: Literal["b64_json", "url"] = "b64_json"
    """How pictures are answered where a request doesn't say; models called dall-e-... answer with URLs, as they did."""
    size_policy: Literal["exact", "nearest"] = "exact"
    """What becomes of a size that the model can't make: an error, or the nearest that it can, with a warning."""
    strict_fields: bool = False
    """Refuse what is otherwise ignored with a warning: known fields, and prompts longer than the model reads."""
    max_body_mb: float = 64.0
    """Largest body of a request, in MiB."""
    max_bodies_mb: float = 1024.0
    """MiB of bodies that may be held at once, of all requests; beyond it requests get 503 with Retry-After."""
    max_input_pixels: int = 32_000_000
    """Largest picture that may be uploaded, in pixels; checked before it is decoded."""
    max_input_images: int = 16
    """Most pictures in one edit."""
    max_image_size: int = 2048
    """Largest width and height of a picture to be made, in pixels; the model's own limits hold as well."""
    max_steps: int = 150
    """Most denoising steps of a request."""
    max_n: int = 10
    """Most pictures of one request."""
    max_frames: int = 257
    """Most frames of a video."""
    max_batch_prompts: int = 64
    """Most prompts in one POST /generate."""
    max_prompt_chars: int = 32_000
    """Longest prompt, in characters."""
    max_queued_requests: int = 256
    """Pictures that may wait for a slot in the engine; beyond it requests get 429 with Retry-After."""
    max_requests_per_key: int | None = None
    """Pictures that one key (without keys: one address) may have under way at once; None: no limit."""
    allow_image_urls: bool = False
    """Fetch pictures from http(s) URLs that requests name; never from private addresses."""
    image_url_timeout_s: float = 10.0
    """Seconds that fetching one such picture may take in all."""
    result_ttl: float = 3600.0
    """Seconds that results of asynchronous requests and of response_format url are kept."""
    max_results_mb: float = 1024.0
    """MiB of such results that are kept; the oldest go first."""
    public_url: str | None = None
    """What URLs of results start with, behind a proxy; by default what the client called."""
    drain_s: float = 30.0
    """Seconds that SIGTERM waits for requests under way; those left get 503."""
    warmup: bool = True
    """Make a first picture before /health says that all is well."""
    log_format: LogFormat | None = None
    """json: every line on stderr is one object, whoever wrote it; text: lines for people. By default text on a
    terminal, else json."""
    log_level: LogLevel = "info"
    """The least that is logged."""
    log_prompts: bool = False
    """Put prompts into the log."""
    stream_keep_alive_s: float = 10.0
    """Longest silence of a stream in seconds: when nothing else was sent a comment is."""
    idle_timeout_s: float = 75.0
    """Seconds that an idle connection is kept open for the client's next request."""
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies whose X-Forwarded-For, -Proto, -Host and -Prefix are believed; * for all."""
    root_path: str = ""
    """The path under which a proxy shows this server, such as /images."""
    ssl_certfile: str | None = None
    """A certificate in PEM form: serve HTTPS."""
    ssl_keyfile: str | None = None
    """Its key, where the certificate's file doesn't hold it."""
    header_timeout_s: float = 20.0
    """Seconds that a client may take to send a request's head."""
    body_timeout_s: float = 60.0
    """Seconds that a client may take to send a body."""
    send_timeout_s: float = 60.0
    """Seconds that a client may take to read a part of a stream."""

    def __post_init__(self) -> None:
        check_number("port", self.port, 0, whole=True, high=65535)
        for name in _COUNTS:
            check_number(name, getattr(self, name), 1, whole=True)
        for name in _POSITIVE:
            check_number(name, getattr(self, name), 1e-3)
        check_number("max_queued_requests", self.max_queued_requests, 0, whole=True)
        if self.max_requests_per_key is not None:
            check_number("max_requests_per_key", self.max_requests_per_key, 1, whole=True)
        check_number("drain_s", self.drain_s, 0)
        self._check_choices()
        for name in ("api_key", "cors_origin", "model_alias"):
            if not all(isinstance(value, str) and value.strip() for value in getattr(self, name)):
                raise InvalidRequestError(f"{name} holds an empty text; expected one or leave it out", name)

    def _check_choices(self) -> None:
        check_choice("response_format", self.response_format, ("b64_json", "url"))
        check_choice("size_policy", self.size_policy, ("exact", "nearest"))
        check_choice("log_level", self.log_level, get_args(LogLevel))
        if self.log_format is not None:
            check_choice("log_format", self.log_format, get_args(LogFormat))
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise InvalidRequestError("ssl_keyfile without ssl_certfile; expected both", "ssl_keyfile")
        for name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidRequestError(f"{name}: there is no file {path}", name)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 2**20)

    @property
    def max_results_bytes(self) -> int:
        """`max_results_mb` in bytes."""
        return int(self.max_results_mb * 2**20)
