"""
`remote`: an environment that somebody serves over HTTP, `gym serve` or a resources server of NeMo Gym.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator

from gym_plugin_nemo_gym.remote.outage import Outage
from gym_plugin_nemo_gym.served import Served, ServedConfig
from gym_plugin_nemo_gym.wire import ServerFault, ServerUnavailable, ServerUnreachable, Wire, over_tcp
from gymcore import EndpointError, option

__all__ = ["Remote", "RemoteConfig"]

_REFUSED = {401: "asks for a token, or for another one", 403: "refuses us", 421: "is not called so"}


class RemoteConfig(ServedConfig):
    """Where it is served, and how it is asked."""

    url: str = option(description="The address: http://HOST:PORT, with a path where the server has one.")
    token: SecretStr | None = option(
        None, description="Sent as a bearer token.", environment_variable="GYM_REMOTE_TOKEN", operational=True
    )

    patience_s: float = option(
        300.0,
        description="How long rollouts that are not begun wait for a server to which no connection can be made.",
        operational=True,
        ge=0,
        le=86_400,
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError("an address looks like http://HOST:PORT, with a port from 1 to 65535") from None
        if "@" in parts.netloc:
            told = "an address must hold no user and no password, because it is written down"
            raise ValueError(f"{told}; try: the option `token`, or export GYM_REMOTE_TOKEN=...")
        if not is_whole or parts.query or parts.fragment or "?" in value or "#" in value:
            raise ValueError("an address looks like http://HOST:PORT or https://HOST/PATH, without a query")
        if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
            raise ValueError("an address holds ASCII letters without spaces; try: %20 and so on")
        return value.rstrip("/")

    @field_validator("token")
    @classmethod
    def _is_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        secret = "" if value is None else value.get_secret_value()
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise ValueError("a token holds ASCII letters without spaces")
        return value


class Remote(Served[RemoteConfig]):
    """
    An environment that is served elsewhere.

    Rows are those of the server: what they say of their route there is kept and sent, and their `tools` are called
    there. A rollout is one session of the server, with cookies of its own.
    """

    resources: Outage

    @classmethod
    @asynccontextmanager
    async def shared(cls, config: RemoteConfig) -> AsyncIterator[Outage]:
        """Look whether somebody is there, and close in the end what rollouts have left open."""
        token = None if config.token is None else config.token.get_secret_value()
        transport = over_tcp(is_encrypted=config.url.startswith("https:"))
        wire = Wire(config.url, transport, config.patience, token=token or None)
        try:
            await _reach(wire)
            yield Outage(wire, config.patience_s)
        finally:
            await wire.aclose()

    @classmethod
    async def way(cls, resources: Outage) -> Wire:
        """Return the way to the server."""
        return resources.wire

    async def open(self) -> None:
        """
        Begin a session; where nobody can be reached, wait: nothing has been spent on this rollout yet.

        Raises:
            EndpointError: no connection could be made for longer than `patience_s`; the run can be resumed.
        """
        self.is_waiting = self.resources.is_gone
        with self.resources.bridged() as next_wait_s:
            while True:
                session = await self._begun()
                try:
                    return await session.seed(self._wait)
                except ServerUnreachable as error:
                    wait_s = next_wait_s(error)
                await self.close()
                await self.resources.wire.sleep(wait_s)

    def _wait(self, is_waiting: bool) -> None:
        """Take note that nobody is there, or that somebody is, and may begin this rollout."""
        self.resources.is_gone = self.is_waiting = is_waiting


async def _reach(wire: Wire) -> None:
    """
    Ask the server for nothing in particular: any answer says that it is there.

    Raises:
        EndpointError: it is not, or wants nothing to do with us.
    """
    hint = f"try: start it, such as gym serve --port {urlsplit(wire.url).port or 80}, or another address"
    line = wire.line()
    try:
        reply = await line.send("", None, most_bytes=2**20, limit_s=min(30.0, wire.patience.request_s))
    except ServerUnavailable as error:
        raise EndpointError(str(error), hints=[hint]) from error
    except ServerFault:  # what it says is no concern of ours
        return
    finally:
        await line.aclose()
    if reply.status in _REFUSED:
        hint = "try: the option `token`, or export GYM_REMOTE_TOKEN=..." if reply.status != 421 else "try: its own name"
        raise EndpointError(f"the server at {wire.url} {_REFUSED[reply.status]} ({reply.status})", hints=[hint])
