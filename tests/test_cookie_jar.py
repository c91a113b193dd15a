"""
What is taken for a cookie, and what goes back.
"""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.cookie_jar import CookieJar

MOST = 4096


def _after(lines: list[str]) -> CookieJar:
    """Return a jar that has taken what it could of some headers."""
    jar = CookieJar(MOST)
    for line in lines:
        with suppress(ValueError):
            jar.take(line)
    return jar


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        (["a=1", "b=2; Secure", "a=3"], "b=2; a=3"),
        (["a=", 'b="quoted, even"', " c = 4 ;Path=/x"], 'a=; b="quoted, even"; c=4'),
        (["a=1", "a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT"], ""),
        (["a=1", "a=1; expires=Thu, 01-Jan-1970 00:00:00 GMT; Max-Age=60"], "a=1"),
        (["a=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", "b=1; Max-Age=-5", "c=1; Max-Age=soon"], "a=1; c=1"),
        (["", "=1", "a", ";", "b=\x00", "c=\u00e9", "d=\t"], "d="),
        (["a=1; Max-Age=" + "9" * 9000, "b=2; Max-Age=" + "0" * 9000], "a=1"),
        (["a=" + "x" * MOST, "b=1"], "b=1"),
        (["a=1", "a=2; max-age = -1"], ""),
        (["a=1; Max-Age=60", "b=; Max-Age=x"], "a=1; b="),
    ],
)
def test_reads_what_servers_ask_for(lines: list[str], header: str) -> None:
    """
    The last one of a name counts; what is over, none, or too long is not kept.
    """
    assert _after(lines).header == header


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=40) | st.from_regex(r"[a-c]=.{0,2000}(;.*)?")))
def test_whatever_is_asked_for_is_a_header_of_bounded_length(lines: list[str]) -> None:
    """
    Nothing that a server sends breaks a request of ours.
    """
    header = _after(lines).header

    assert len(header) <= MOST
    assert re.fullmatch(r"[ -~]*", header)


def test_one_that_is_too_much_is_told_and_changes_nothing() -> None:
    """
    It may have been the one by which the server knows who asks.
    """
    jar = _after(["session=1"])

    with pytest.raises(ValueError, match="more than 4,096 characters"):
        jar.take("more=" + "x" * MOST)

    assert (jar.header, "session" in jar, "more" in jar) == ("session=1", True, False)
