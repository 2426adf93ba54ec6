"""What the pool needs of an API's SDK. One `ImageService` a run, one `Connection` an endpoint."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from PIL import Image

from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.input.rows import Job


class Connection(Protocol):
    """A client of one endpoint, used by many threads at once."""

    def ask(
        self, prompt: str, arguments: Mapping[str, object], pictures: Sequence[Image.Image], timeout_s: float
    ) -> Image.Image:
        """Sends one request and waits for its image. Raises `ApiError`."""

    def close(self) -> None: ...


class ImageService(Protocol):
    """An API that makes images."""

    def arguments(self, job: Job) -> dict[str, object]:
        """What is sent beside the prompt and the pictures, under the API's names.

        Raises `InvalidRequestError` for a job that the API can't do.
        """

    def connect(self, endpoint: Endpoint) -> Connection: ...
