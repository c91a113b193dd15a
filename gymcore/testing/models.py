"""
A model that answers from a script.
"""

from __future__ import annotations

from collections.abc import Iterator

from gymcore.interfaces import Config, Model, RolloutContext
from gymcore.responses import Request, Response
from gymcore.testing.replies import Reply

__all__ = ["ScriptedModel"]


class ScriptedModel(Model):
    """
    Gives its replies in order, and says nothing more after the last; each rollout starts from the first.

    Args:
        replies: What it answers: `says(...)`, `calls(...)`, `truncated(...)`, or an exception to raise.

    Attributes:
        requests: Every request it was asked, in order.
    """

    def __init__(self, *replies: Reply | Exception) -> None:
        super().__init__(Config())
        self._replies = replies
        self.requests: list[Request] = []

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Give the next reply of this rollout's script."""
        self.requests.append(request)
        script: Iterator[Reply | Exception] = rollout.state.setdefault(self, iter(self._replies))
        reply = next(script, None)
        if reply is None:
            return Response(output=[], status="completed", model="scripted")
        if isinstance(reply, Exception):
            raise reply
        return reply.to_response(len(self.requests))
