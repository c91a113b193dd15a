"""
What carries the requests to an address: aiohttp where it is installed, else httpx's own connections.

httpx's own pool looks at every connection for every request, which at 64 calls in flight costs ten times what the
rest of a model call does. It needs nothing more, though, and aiohttp weighs 12 MB; so it is an extra, `[fast]`.
"""

from __future__ import annotations

from importlib.util import find_spec

import httpx

from gym_plugin_openai_model.endpoints import proxy_for

__all__ = ["httpx_transport", "open_transport"]


def open_transport(address: httpx.URL) -> httpx.AsyncBaseTransport:
    """Return the fastest transport that is installed; it is opened and closed with `async with`."""
    if find_spec("aiohttp") is not None:
        from gym_plugin_openai_model.aiohttp_transport import AiohttpTransport

        return AiohttpTransport()
    return httpx_transport(address)


def httpx_transport(address: httpx.URL) -> httpx.AsyncBaseTransport:
    """Return httpx's own transport, without a bound on its connections: how many are in flight is decided elsewhere."""
    return httpx.AsyncHTTPTransport(
        verify=address.scheme == "https",  # reading the certificates takes 20 ms that plain HTTP need not spend
        proxy=proxy_for(address),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )
