"""
Cookies: how routers, and NeMo Gym's model server, know that a request goes on with a conversation of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime

__all__ = ["MAX_LENGTH", "Cookies"]

MAX_LENGTH = 4096
"""Characters of all cookies together; servers read no header that is much longer."""


class Cookies:
    """
    What one address has asked one rollout to send back.

    They are sent with every further request of the rollout to that address, whatever path they name, and kept as long
    as the rollout lasts, unless the address takes them back.

    Attributes:
        header: The value of the header `cookie`; empty where there is none.
    """

    def __init__(self) -> None:
        self.header = ""
        self._kept: dict[str, str] = {}

    def take(self, lines: Iterable[str], now: float) -> None:
        """
        Note what a reply asks for; what is no cookie, or one too many, is passed over.

        Args:
            lines: Values of `set-cookie`, in order.
            now: Seconds since 1970.

        Source:
            RFC 6265, section 5.2.
        """
        for line in lines:
            pair, *attributes = line.split(";")
            name, sign, value = (part.strip() for part in pair.partition("="))
            if not (name and sign and pair.isascii() and pair.strip().isprintable()):
                continue
            kept = {other: said for other, said in self._kept.items() if other != name}
            if not _is_over(attributes, now):
                kept[name] = value
            header = "; ".join(f"{other}={said}" for other, said in kept.items())
            if len(header) <= MAX_LENGTH:
                self._kept, self.header = kept, header


def _is_over(attributes: Iterable[str], now: float) -> bool:
    """Whether a cookie is taken back: it has no more time, or its time was over before it came."""
    said = {name.strip().lower(): value.strip() for name, _, value in (text.partition("=") for text in attributes)}
    age = said.get("max-age", "")
    if age.removeprefix("-").isdecimal():
        return age.startswith("-") or not age.strip("0")
    try:
        return parsedate_to_datetime(said.get("expires", "")).timestamp() <= now
    except (ValueError, OverflowError):
        return False
