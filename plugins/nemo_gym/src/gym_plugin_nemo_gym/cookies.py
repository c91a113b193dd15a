"""
The cookies of one rollout: what a server tells its sessions apart by.

One server is asked, over one address, so what decides where else a cookie would be sent (domain, path, ...) is not
looked at.

Source: https://www.rfc-editor.org/rfc/rfc6265#section-5.2
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAX_COOKIE_CHARACTERS", "CookieJar"]

MAX_COOKIE_CHARACTERS = 16_000
"""All cookies of a rollout together; servers take no longer headers either."""


class CookieJar:
    """What a server has set so far."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._cookies

    def take(self, lines: Iterable[str]) -> None:
        """
        Take what the `Set-Cookie` headers of a reply say; what is no cookie is passed over.

        Raises:
            ValueError: they are more than any server would take back.
        """
        for line in lines:
            pair, *attributes = line.split(";")
            name, equals, value = pair.partition("=")
            if not equals or not name.strip() or not pair.isprintable():
                continue
            self._cookies.pop(name.strip(), None)
            if not any(map(_is_over, attributes)):
                self._cookies[name.strip()] = value.strip()
        if len(self.header) > MAX_COOKIE_CHARACTERS:
            raise ValueError(f"the cookies of the server have more than {MAX_COOKIE_CHARACTERS:,} characters")

    @property
    def header(self) -> str:
        """The `Cookie` header of the next request; empty where there is none."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())


def _is_over(attribute: str) -> bool:
    """Whether an attribute of a cookie says that it is to be forgotten."""
    name, _, value = attribute.partition("=")
    digits = value.strip().removeprefix("-")
    return name.strip().lower() == "max-age" and digits.isdigit() and (int(digits) == 0 or value.strip()[0] == "-")
