"""
Two agents whose names make ambiguous routes: `echo_loud` + `voice` and `echo` + `loud_voice`.
"""

from gymcore import Agent, BoundModel, Config, OpenEnvironment, Trajectory, Turn, option


class VoiceConfig(Config):
    """How the voice sounds."""

    pitch: int = option(1, ge=1)


class Voice(Agent[VoiceConfig]):
    """Ask once."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Ask the model once, whatever it says."""
        response = await model.respond(environment.request)
        return Trajectory(turns=(Turn(output=tuple(response.output)),))


class LoudVoice(Voice):
    """Ask once, louder."""
