"""
Repeat what the task says: an environment with options of every sort.
"""

from typing import Literal

from pydantic import BaseModel, SecretStr, field_validator, model_validator

from gymcore import Config, Environment, Reward, Solution, Task, Trajectory, call, option, say, tool


class Echoed(Task):
    """One word to repeat."""

    answer: str
    level: int = 1

    @field_validator("answer")
    @classmethod
    def _has_a_meaning(cls, value: str) -> str:
        return {"": "empty"}[value] if value in ("", "no such word") else value


class Auth(BaseModel):
    """A secret inside an object."""

    token: SecretStr
    user: str = ""


class EchoConfig(Config):
    """Options of every sort."""

    level: int = option(1, ge=1, le=9, description="How hard it is.")
    style: Literal["plain", "loud"] = option("plain", description="How it is said.")
    name: str = option("nobody", environment_variable="ECHO_NAME")
    url: str = option("http://here", operational=True, description="Where it is said.")
    key: SecretStr | None = option(None, environment_variable="ECHO_KEY")
    auth: Auth | None = None
    headers: dict[str, SecretStr] = option({})

    @model_validator(mode="after")
    def _is_possible(self) -> "EchoConfig":
        if self.style == "loud" and self.level == 1:
            raise ValueError("level 1 cannot be loud")
        return self


class Echo(Environment[Echoed, EchoConfig]):
    """Repeat the word of the task."""

    @tool
    def repeat(self, text: str, times: int = 1) -> str:
        """
        Repeat a text.

        Args:
            text: What to repeat.
            times: How often.
        """
        return text * times

    def verify(self, trajectory: Trajectory) -> Reward:
        """Pay 1.0 when the word was said."""
        return Reward(value=float(self.task.answer in trajectory.text))

    async def solve(self) -> Solution:
        """Have the word repeated, and say it."""
        yield say((yield call("repeat", text=self.task.answer)))
