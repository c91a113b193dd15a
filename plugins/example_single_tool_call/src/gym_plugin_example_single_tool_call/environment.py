"""
The weather environment: one tool, one call, one answer.
"""

from gymcore import Config, Environment, Reward, Solution, Task, Trajectory, call, option, say, tool

__all__ = ["ExampleSingleToolCall", "Weather", "WeatherConfig"]


class Weather(Task):
    """One question about the weather."""

    city: str | None = None
    """The city the question is about; rows made elsewhere may not say."""


class WeatherConfig(Config):
    """What counts as well done."""

    require_call: bool = option(
        True, description="Reward only attempts that asked for the weather; else every attempt."
    )
    match_city: bool = option(False, description="Ask for the task's own city, not just any, where the task names one.")


class ExampleSingleToolCall(Environment[Weather, WeatherConfig]):
    """Ask for the weather with one tool call, then answer."""

    @tool
    def get_weather(self, city: str) -> dict[str, str]:
        """
        Get the weather in a city.

        Args:
            city: The city's name.
        """
        return {"city": city, "weather_description": f"The weather in {city} is cold."}

    def verify(self, trajectory: Trajectory) -> Reward:
        """Pay 1.0 when the weather of a city was asked before the final answer, else 0.0."""
        calls = trajectory.calls("get_weather")
        called = any(self._is_a_city(call.parsed().get("city")) for call in calls)
        answered = bool(trajectory.text.strip()) and not trajectory.turns[-1].calls
        value = 1.0 if (called and answered) or not self.config.require_call else 0.0
        return Reward(value=value, metrics={"called": called, "calls": len(calls)})

    def _is_a_city(self, name: object) -> bool:
        if not isinstance(name, str) or not name.strip():
            return False
        wanted = self.task.city if self.config.match_city else None
        return wanted is None or name.strip().casefold() == wanted.casefold()

    async def solve(self) -> Solution:
        """Ask for the task's city, and answer with what came back."""
        weather = yield call("get_weather", city=self.task.city or "San Francisco")
        yield say(weather["weather_description"])
