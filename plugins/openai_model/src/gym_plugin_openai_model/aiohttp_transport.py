"""
An httpx transport over aiohttp: the interface stays httpx's, the connections are aiohttp's.

aiohttp keeps its idle connections by host, and does not look at every one of them for every request. A reply arrives
whole: nothing here streams.
"""

from __future__ import annotations

import aiohttp
import httpx
from yarl import URL

from gym_plugin_openai_model.endpoints import proxy_for

__all__ = ["AiohttpTransport"]


class AiohttpTransport(httpx.AsyncBaseTransport):
    """
    Carries httpx requests over connections that are kept alive; opened and closed with `async with`.

    There are as many connections as there ever were requests in flight. The proxies that the process environment
    names (`https_proxy`, `no_proxy`, ...) are used.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._ways: dict[str, tuple[URL, str | None]] = {}

    async def __aenter__(self) -> AiohttpTransport:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # how many are in flight is decided elsewhere
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # httpx decodes
            timeout=aiohttp.ClientTimeout(total=None),  # the whole request has its own bound
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request and return its reply, read to the end.

        Raises:
            httpx.TransportError: it could not be sent, or the reply is not whole.
        """
        assert self._session is not None, "open the transport first: async with AiohttpTransport()"
        url, proxy = self._way_to(request.url)
        connect_s = request.extensions.get("timeout", {}).get("connect")
        try:
            async with self._session.request(
                request.method,
                url,
                data=request.content,
                headers=dict(request.headers),
                allow_redirects=False,
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            ) as reply:
                content = await reply.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {connect_s:g} s") from error
        except (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError) as error:
            raise httpx.ProxyError(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
        return httpx.Response(reply.status, headers=list(reply.raw_headers), content=content, request=request)

    def _way_to(self, address: httpx.URL) -> tuple[URL, str | None]:
        """Return an address as aiohttp takes it, and its proxy; kept, because finding them costs more than asking."""
        text = str(address)
        if text not in self._ways:
            self._ways[text] = (URL(text, encoded=True), proxy_for(address))
        return self._ways[text]

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
