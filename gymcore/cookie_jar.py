"""
Cookies that one address has set in one rollout: how routers, and servers with sessions, know that a request goes on.

They go back with every further request to that address, so what decides where else a cookie would be sent (domain,
path, ...) is not looked at.

Source: https://www.rfc-editor.org/rfc/rfc6265#section-5.2
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

__all__ = ["CookieJar"]


class CookieJar:
    """
    What an address has set so far.

    Args:
        most_characters: What all cookies may have together; servers take no much longer headers.

    Attributes:
        header: The value of the header `Cookie` of the next request, printable ASCII; empty where there is none.
    """

    def __init__(self, most_characters: int) -> None:
        self.header = ""
        self._most_characters = most_characters
        self._kept: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def take(self, line: str) -> None:
        """
        Note what a header `Set-Cookie` says: the last one of a name counts, and what is no cookie is passed over.

        Raises:
            ValueError: with it, the cookies would be too long; it is not kept.
        """
        pair, *attributes = line.split(";")
        name, sign, value = (part.strip() for part in pair.partition("="))
        if not (name and sign and pair.isascii() and pair.strip().isprintable()):
            return
        kept = {other: said for other, said in self._kept.items() if other != name}
        if not _is_over(attributes):
            kept[name] = value
        header = "; ".join(f"{other}={said}" for other, said in kept.items())
        if len(header) > self._most_characters:
            raise ValueError(f"the cookies of the server have more than {self._most_characters:,} characters")
        self._kept, self.header = kept, header


def _is_over(attributes: Iterable[str]) -> bool:
    """Whether a cookie is taken back: it has no more time, or its time was over before it came."""
    said = {name.strip().lower(): value.strip() for name, _, value in (text.partition("=") for text in attributes)}
    age = said.get("max-age", "")
    if age.removeprefix("-").isdecimal():
        return age.startswith("-") or not age.strip("0")
    try:
        return parsedate_to_datetime(said.get("expires", "")).timestamp() <= time.time()
    except (ValueError, OverflowError):
        return False
