"""Who is really asking, and under which address, where proxies stand in front.

Believes X-Forwarded-For, -Proto, -Host and -Prefix of the proxies that `--forwarded-allow-ips` names, of nobody else.
"""

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from interlace.errors import InvalidRequestError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+){1,16}")


class Forwarded:
    """An ASGI layer that puts client, scheme, host and prefix where the rest of the application looks for them."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str], root_path: str = "") -> None:
        self.app = app
        self._everyone = "*" in trusted
        self._networks = [_network(one) for one in trusted if one != "*"]
        self._root_path = check_root_path(root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = self._seen_from_outside(scope)
        await self.app(scope, receive, send)

    def _seen_from_outside(self, scope: Scope) -> Scope:
        peer = scope["client"][0] if scope.get("client") else None
        headers = Headers(scope=scope)
        prefix = self._root_path
        scope = dict(scope)
        if self._trusts(peer):
            prefix = _prefix(headers) or prefix
            scope["client"] = self._client(headers) or scope.get("client")
            if (scheme := _last(headers, "x-forwarded-proto").lower()) in ("http", "https"):
                scope["scheme"] = scheme
            if _HOST.fullmatch(host := _last(headers, "x-forwarded-host")):
                kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope["headers"] = [*kept, (b"host", host.encode("ascii"))]
        if prefix:
            scope |= {"root_path": prefix, "path": prefix + local_path(scope["path"], prefix)}
        return scope

    def _trusts(self, address: str | None) -> bool:
        """A peer without an address is one on a local socket."""
        if self._everyone or address is None:
            return True
        try:
            found = ipaddress.ip_address(address.split("%")[0])
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def _client(self, headers: Headers) -> tuple[str, int] | None:
        """The nearest address that is not one of the trusted proxies': what lies beyond it anybody may have written."""
        hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
        addresses = [_address(hop) for hop in hops]
        if not addresses or None in addresses:
            return None
        strangers = [address for address in addresses if address and not self._trusts(address)]
        nearest = addresses[0] if self._everyone or not strangers else strangers[-1]
        return (nearest, 0) if nearest else None


def path_of(scope: Scope) -> str:
    """The path of a request as our routes know it, without the prefix that a proxy shows."""
    return local_path(scope["path"], scope.get("root_path", ""))


def local_path(path: str, prefix: str) -> str:
    """A path without `prefix`, where the proxy has left it on; it always begins with a slash."""
    rest = path.removeprefix(prefix)
    if not rest:
        return "/"
    return rest if rest.startswith("/") else path


def check_root_path(root_path: str) -> str:
    """The prefix without a slash at its end. Raises `InvalidRequestError` for what is no path."""
    plain = root_path.rstrip("/")
    if plain and not _PREFIX.fullmatch(plain):
        raise InvalidRequestError(f"root_path is {root_path!r}; expected a path such as /images", "root_path")
    return plain


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        expected = "expected addresses or networks such as 10.0.0.0/8, or *"
        raise InvalidRequestError(f"forwarded_allow_ips has {text!r}; {expected}", "forwarded_allow_ips") from error


def _last(headers: Headers, name: str) -> str:
    """Of several proxies' words, the nearest one's."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


def _prefix(headers: Headers) -> str:
    text = _last(headers, "x-forwarded-prefix").rstrip("/")
    return text if _PREFIX.fullmatch(text) else ""


def _address(hop: str) -> str | None:
    """Of `1.2.3.4`, `1.2.3.4:5`, `::1` or `[::1]:5`."""
    plain = hop.strip('"')
    if plain.startswith("["):
        plain = plain[1:].partition("]")[0]
    elif plain.count(":") == 1:
        plain = plain.partition(":")[0]
    try:
        return str(ipaddress.ip_address(plain.split("%")[0]))
    except ValueError:
        return None
