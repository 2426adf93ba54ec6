"""Every limit and switch of the server. Flags, YAML keys, environment names and help texts come from these fields."""

from dataclasses import dataclass

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_POSITIVE = ("max_body_mb", "max_bodies_mb", "max_input_pixels", "result_ttl", "max_results_mb", "body_timeout_s",
             "header_timeout_s", "send_timeout_s", "keep_alive_s", "image_url_timeout_s")  # fmt: skip
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
    """Pictures that may wait for a place in the engine; beyond it requests get 429 with Retry-After."""
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
    log_prompts: bool = False
    """Put prompts into the log."""
    keep_alive_s: float = 10.0
    """Seconds between signs of life in a stream that has nothing to say."""
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
        for name in ("api_key", "cors_origin", "model_alias"):
            if not all(isinstance(value, str) and value.strip() for value in getattr(self, name)):
                raise InvalidRequestError(f"{name} holds an empty text; expected one or leave it out", name)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 2**20)

    @property
    def max_results_bytes(self) -> int:
        """`max_results_mb` in bytes."""
        return int(self.max_results_mb * 2**20)
