"""How a service is asked: where, with which key, within which limits. Frozen, and without any SDK."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """Where requests to a service go, with which key, and within which limits."""

    base_url: Annotated[list[str], Parameter(consume_multiple=True, negative=())] = field(default_factory=list)
    """URL[,weight=2][,rpm=60][,workers=4][,key_env=NAME]: one endpoint or more; by default the SDK's own."""
    endpoints_file: Path | None = None
    """YAML: a list of endpoints with base_url, weight, requests_per_minute, max_workers, key_env or key_file."""
    api_key: Annotated[str | None, Parameter(show_default=False)] = field(default=None, repr=False)
    """The key. Other users of the machine see command lines: better OPENAI_API_KEY or GEMINI_API_KEY, or a file."""
    api_key_file: Path | None = None
    """A file that holds the key and nothing else."""
    max_global_workers: int | None = None
    """Requests at once, over all endpoints; by default 16. --num-processes are the threads that send them: of the two
    the smaller counts."""
    max_requests: int | None = None
    """Send at most so many requests, further attempts included, and stop; the same command goes on from there."""
    requests_per_minute: float | None = None
    """The limit of each endpoint that has no limit of its own."""
    request_timeout_s: float = 300.0
    """Seconds without a word from the service after which a request is given up and tried again."""
    api_extras: bool | None = None
    """Send what the API itself has no field for (seed, steps, guidance, strength) as further fields of the request; by
    default where the service isn't OpenAI's own."""
    num_processes: Annotated[int | None, Parameter(parse=False)] = None
    max_retries: Annotated[int, Parameter(parse=False)] = 5

    def __post_init__(self) -> None:
        for name in ("max_global_workers", "num_processes", "max_requests"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, whole=True)
        check_number("max_retries", self.max_retries, 0, whole=True)
        check_number("request_timeout_s", self.request_timeout_s, 0)
        if not self.request_timeout_s:
            raise InvalidRequestError("request_timeout_s is 0; expected more", "request_timeout_s")
        if self.api_key is not None and self.api_key_file is not None:
            raise InvalidRequestError("expected either --api-key or --api-key-file, and not both", "api_key")

    @property
    def num_workers(self) -> int:
        """Requests at once; also what a run should take as `max_num_seqs`."""
        return min([n for n in (self.num_processes, self.max_global_workers) if n is not None], default=_WORKERS)
