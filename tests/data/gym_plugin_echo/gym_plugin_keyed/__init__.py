"""
A model that needs an address and a key, and never asks anybody.
"""

from pydantic import SecretStr

from gymcore import Config, Environment, Model, Request, Response, RolloutContext, option
from gymcore.responses import message


class KeyedConfig(Config):
    """Where and with what."""

    base_url: str = option(environment_variable="KEYED_URL", operational=True, description="Where it answers.")
    api_key: SecretStr | None = option(None, environment_variable="KEYED_KEY")
    temperature: float = 1.0
    model: str = "any"


class Keyed(Model[KeyedConfig]):
    """Say hello."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Say hello to everything."""
        return Response(output=[message("hello")])

    def objection(self, environment: type[Environment]) -> str | None:
        """Dislike the mute."""
        return "nobody talks to the mute" if environment.__name__ == "Mute" else None
