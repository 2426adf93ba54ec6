"""Fetches a file from a URL that a stranger named: public addresses only, within a size and a time.

Redirects are followed only where that is wanted, each to a public address again.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Collection
from time import monotonic
from urllib.parse import urljoin, urlsplit


class FetchError(OSError):
    """A server that did not answer with the file; `status` is what it answered with, if it did."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    max_redirects: int = 0,
    trusted_hosts: Collection[str] = (),
) -> bytes:
    """The body behind `url`. Blocks; at most `timeout_s` seconds and `max_bytes` bytes.

    The name is resolved once and the connection goes to that very address, so that a second answer of the name
    server can't lead inside. Hosts that the user has named are trusted and may be anywhere. Raises OSError (of these
    `FetchError` where the answer was an error) or ValueError with a reason.
    """
    ends = monotonic() + timeout_s
    for left in range(max_redirects, -1, -1):
        answer = _ask(url, max_bytes, max(ends - monotonic(), 0.001), follow=left > 0, trusted=trusted_hosts)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise AssertionError("unreachable: the last answer is no redirect")


def _ask(url: str, max_bytes: int, timeout_s: float, follow: bool, trusted: Collection[str]) -> bytes | str:
    """The body, or where it is instead."""
    parts = urlsplit(url)
    host, secure = parts.hostname, parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not host or parts.username:
        raise ValueError("expected http(s)://host/path without user names")
    port = parts.port or (443 if secure else 80)
    raw = socket.create_connection((host, port) if host in trusted else public_address(host, port), timeout=timeout_s)
    late = threading.Timer(timeout_s, raw.shutdown, [socket.SHUT_RDWR])  # each read alone could take that long
    late.start()
    try:
        connection = http.client.HTTPConnection(host, parts.port)
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "interlace", "Accept": "image/*"})
        return _read(connection.getresponse(), max_bytes, follow)
    except http.client.HTTPException as error:
        raise OSError(f"the answer was not understood or took too long: {type(error).__name__}") from error
    finally:
        late.cancel()
        raw.close()


def public_address(host: str, port: int) -> tuple[str, int]:
    """An address of `host` to connect to. Raises ValueError when any of its addresses is not a public one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host} has no address") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found]
    for address in addresses:
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
        if not (address.is_global and inner.is_global) or inner.is_multicast:
            raise ValueError(f"{host} is not a public address")
    return str(addresses[0]), port


def is_public(host: str) -> bool:
    """Whether a host is out on the web. False too where it has no address."""
    try:
        return bool(public_address(host, 80))
    except (OSError, ValueError):
        return False


def _read(response: http.client.HTTPResponse, max_bytes: int, follow: bool) -> bytes | str:
    place = response.getheader("Location")
    if follow and place and response.status in (301, 302, 303, 307, 308):
        return place
    if response.status != 200:
        text = f"the answer was {response.status}; expected 200 (redirects are not followed)"
        raise FetchError(text, response.status)
    data = response.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    return data
