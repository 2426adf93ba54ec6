"""Every error that Interlace raises on purpose. Messages say what was got, what was expected and what to do."""


class InterlaceError(Exception):
    """Base of all errors below; `except InterlaceError` catches what this package raises on purpose."""


class InvalidRequestError(InterlaceError, ValueError):
    """A request or a flag that can't be run as it stands. `param` names the field at fault, where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownAdapterError(InvalidRequestError):
    """A request names an adapter that is not there. The message has the names that are."""


class TooLargeError(InvalidRequestError):
    """A request that takes more memory than there is, even alone. The message has the numbers."""


class StorageError(InterlaceError):
    """The disk does not take what is to be written."""


class ModelLoadError(InterlaceError):
    """A model directory or hub id that could not be loaded."""


class RequestError(InterlaceError):
    """A request that was accepted and could not be finished; it harmed no other."""


class AbortedError(RequestError):
    """The request was aborted by its owner."""


class DeadlineExceededError(RequestError, TimeoutError):
    """The request did not finish within its `timeout_s`."""


class NonFiniteOutputError(RequestError):
    """The model produced NaN or Inf for this request."""


class EngineDeadError(RequestError):
    """The engine's thread ended; nothing that was pending can be finished."""


class EngineClosedError(InterlaceError):
    """The engine was closed before this request was submitted."""
