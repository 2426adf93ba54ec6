"""The address to listen on, taken before anything that is slow is imported or loaded."""

import socket

from interlace.errors import InvalidRequestError
from interlace.serve.settings import ServeSettings


def bind(settings: ServeSettings) -> socket.socket:
    """The socket to listen on, taken before a model is loaded. Raises `InvalidRequestError` where it is in use."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        text = f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}; choose another --port"
        raise InvalidRequestError(text, "port") from error
    return sock
