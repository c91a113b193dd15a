"""
The model that does nothing.
"""

from gymcore.interfaces import Model, RolloutContext
from gymcore.responses import Request, Response

__all__ = ["Nop"]


class Nop(Model):
    """Replies with nothing at all, so that what an environment pays for nothing can be seen."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Reply with an empty output."""
        return Response(output=[], status="completed", model="nop")
