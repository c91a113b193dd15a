"""
What no message may show: keys, headers and passwords, in whichever form they come back.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote_plus, urlsplit

from gymcore.documents import encode_json

__all__ = ["Mask", "secrets_in_query"]

MIN_PART_LENGTH = 4
"""Shorter parts of a secret give nothing away, and masking them would make messages unreadable."""
_SCHEMES = frozenset({"apikey", "basic", "bearer", "digest", "token"})
"""First words of an `Authorization`, which are no secret."""


class Mask:
    """
    Puts `***` in the place of secrets.

    Args:
        secrets: Whole keys, values of headers, passwords, as they are sent; their parts are masked as well.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for part in _parts(secret) for form in _forms(part)}
        self._forms = sorted(forms, key=len, reverse=True)  # the longest first: it may hold another
        self._longest = max(map(len, forms), default=0)

    def over(self, text: str, length: int) -> str:
        """
        Return the beginning of a text without secrets.

        Args:
            text: Text from outside, however long; of a secret that begins within `length` nothing is left.
            length: About how many characters are wanted; fewer come where secrets were masked.
        """
        reach = length + self._longest
        begins = text[:reach]
        for form in self._forms:
            begins = begins.replace(form, "***")
        # What was cut may end with half a secret, which looks like none.
        return begins[: max(0, len(begins) - self._longest)] if len(text) > reach else begins

    def over_utf8(self, data: bytes, length: int) -> str:
        """Do the same for UTF-8, good or bad, of which no more is decoded than is needed."""
        return self.over(data[: 4 * (length + self._longest + 1)].decode("utf-8", "replace"), length)


def secrets_in_query(url: str) -> Iterator[str]:
    """Give the values in the query of a URL, which may be keys; a version is none, and readers of errors need it."""
    for pair in urlsplit(url).query.split("&"):
        name, sign, value = pair.partition("=")
        if not name.lower().endswith("version"):
            yield from (secret for secret in (value, unquote_plus(value)) if sign and len(secret) >= MIN_PART_LENGTH)


def _parts(secret: str) -> set[str]:
    """Return a secret and the parts that may come back alone: `key` of `Bearer key` and of `session=key; ...`."""
    words = re.split(r"[\s;,]+", secret)
    parts = {part for word in words for part in (word, word.partition("=")[2])}
    parts |= {part.strip("=\"'") for part in parts}
    return {part for part in parts if _is_telling(part)} | ({secret} if secret else set())


def _is_telling(part: str) -> bool:
    return len(part) >= MIN_PART_LENGTH and part.lower() not in _SCHEMES


def _forms(part: str) -> set[str]:
    """Return the ways in which a server may write a part: as it is, escaped for JSON (once or twice), HTML or a URL."""
    once = encode_json(part)[1:-1].decode()
    twice = encode_json(once)[1:-1].decode()
    quoted = {quote(part, safe=safe, errors="replace") for safe in ("", "/")}
    return {part, once, twice, part.replace("/", "\\/"), html.escape(part), *quoted}
