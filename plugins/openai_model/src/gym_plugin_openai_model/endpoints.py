"""
The addresses of a model: which rollout asks which, and which of them are down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import httpx

__all__ = ["Endpoint", "Endpoints", "check_base_url", "proxy_for"]


def check_base_url(url: str) -> str:
    """
    Return a base URL without its trailing slash.

    Raises:
        ValueError: it is no http(s) address, or holds a user or password.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:  # said first, and without showing what stands there
        raise ValueError("a base URL may not hold a user or password; use api_key or default_headers")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base URL begins with http:// or https:// and a host")
    _ = parts.port  # raises a ValueError that says what is wrong with it
    return parts._replace(path=parts.path.rstrip("/"), fragment="").geturl()


def proxy_for(address: httpx.URL) -> str | None:
    """Return the proxy that the process environment names for an address (`https_proxy`, `no_proxy`, ...), if any."""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(address.host) else proxy


@dataclass(slots=True, eq=False)
class Endpoint:
    """One address, and what is known of it."""

    url: str
    """Where requests go, the query of the base URL included."""
    address: httpx.URL | None = None
    """The same, parsed once; None until the model is opened."""
    transport: httpx.AsyncBaseTransport | None = None
    """What carries requests there; None until the model is opened."""
    successes: int = 0
    down: str | None = None
    """Why nobody is sent there any more; None while it works."""

    @property
    def shown(self) -> str:
        """The URL without its query, which may hold a key."""
        return self.url.partition("?")[0]

    def succeeded(self) -> None:
        """Note a reply; whoever replies is not down."""
        self.successes += 1
        self.down = None


class Endpoints:
    """
    Spreads rollouts over addresses, one after the other.

    Args:
        base_urls: The addresses, as `check_base_url` returns them.
        path: What is added to each, such as `/responses`.
    """

    def __init__(self, base_urls: Sequence[str], path: str) -> None:
        self._all = [Endpoint(_join(url, path)) for url in base_urls]
        self._turn = 0

    def choose(self) -> Endpoint:
        """Return the next address that is not down; any where all are."""
        for _ in self._all:
            endpoint = self._all[self._turn % len(self._all)]
            self._turn += 1
            if endpoint.down is None:
                break
        return endpoint

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    @property
    def all_down(self) -> bool:
        """Whether there is nobody left to ask."""
        return all(endpoint.down is not None for endpoint in self._all)


def _join(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return parts._replace(path=parts.path + path).geturl()
