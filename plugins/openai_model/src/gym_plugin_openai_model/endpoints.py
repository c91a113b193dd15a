"""
The addresses of a model: which rollout asks which, and where it goes when its own does not work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from gym_plugin_openai_model.gate import Gate

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
    gate: Gate
    """What every request passes."""
    transport: httpx.AsyncBaseTransport | None = None
    """What carries requests there; None until the model is opened."""
    successes: int = 0
    refusals: int = 0
    """Calls in a row that were forbidden (403), without a reply in between."""
    gives_token_ids: bool = False
    """Whether a reply has had the token ids that were asked for."""

    @property
    def shown(self) -> str:
        """The URL without its query, which may hold a key."""
        return self.url.partition("?")[0]

    @property
    def tokenize_url(self) -> str:
        """Where servers that have `/v1/chat/completions` say how they read a conversation: beside `/v1`."""
        parts = urlsplit(self.url)
        path = parts.path.removesuffix("/chat/completions").removesuffix("/v1")
        return parts._replace(path=f"{path}/tokenize").geturl()

    def succeeded(self) -> None:
        """Note a reply."""
        self.successes += 1
        self.refusals = 0


class Endpoints:
    """
    Spreads rollouts over addresses, one after the other.

    Args:
        base_urls: The addresses, as `check_base_url` returns them.
        path: What is added to each, such as `/responses`.
        make_gate: Makes the gate of one address.
        clock: The clock of the gates.
    """

    def __init__(
        self, base_urls: Sequence[str], path: str, make_gate: Callable[[], Gate], clock: Callable[[], float]
    ) -> None:
        self._all = [Endpoint(_join(url, path), make_gate()) for url in base_urls]
        gates = [endpoint.gate for endpoint in self._all]
        for gate in gates:
            gate.gates = gates
        self._clock = clock
        self._turn = 0

    def choose(self) -> Endpoint:
        """
        Return the address for a new rollout: the next that works, or is to be tried again; where none does, the next.
        """
        found = self._next(lambda gate, now: gate.is_available(now)) or self._next(lambda gate, _: not gate.is_shut)
        return found or self._all[0]

    def instead_of(self, endpoint: Endpoint) -> Endpoint:
        """Return the address for a rollout: its own, or one that works while its own does not; its own if none does."""
        if len(self._all) == 1 or endpoint.gate.is_available(self._clock()):
            return endpoint
        found = self._next(lambda gate, now: gate.is_working(now))
        if found is None and endpoint.gate.is_shut:
            found = self._next(lambda gate, _: not gate.is_shut)
        return found or endpoint

    def _next(self, suits: Callable[[Gate, float], bool]) -> Endpoint | None:
        """Return the next address in turn whose gate suits, if any."""
        now = self._clock()
        for _ in self._all:
            endpoint = self._all[self._turn % len(self._all)]
            self._turn += 1
            if suits(endpoint.gate, now):
                return endpoint
        return None

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _join(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return parts._replace(path=parts.path + path).geturl()
