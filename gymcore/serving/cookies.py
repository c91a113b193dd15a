"""
The cookie that names a session.
"""

from __future__ import annotations

import re

from starlette.types import Scope

__all__ = ["COOKIE", "named_in", "set_cookie"]

COOKIE = "gymcore_session"
"""The cookie that names a session; it is signed, and every answer sends it again."""

_NAMED = re.compile(rf'(?:^|[;,])\s*{COOKIE}="?([\w.-]{{1,200}})"?\s*(?=[;,]|$)', re.ASCII)


def named_in(scope: Scope) -> str | None:
    """Return the session that a request names, whether there is one or not; None where it names none."""
    cookies = [value.decode("latin-1") for key, value in scope["headers"] if key == b"cookie"]
    named = _NAMED.findall("; ".join(cookies)) if cookies else ()
    return named[-1] if named else None


def set_cookie(name: str) -> str:
    """Return the Set-Cookie header that names a session."""
    return f"{COOKIE}={name}; Path=/; HttpOnly; SameSite=Strict"
