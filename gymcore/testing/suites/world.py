"""
A small world in which agents and models are looked at.
"""

from __future__ import annotations

from typing import Any

from gymcore.interfaces import Environment, Solution, call, say, tool
from gymcore.records import Task, Trajectory, Turn

__all__ = ["World", "world_row"]


class Hidden(Task):
    """A word that only a tool tells."""

    word: str


class World(Environment[Hidden]):
    """Look the word up, and say it."""

    @tool
    def look_up(self) -> str:
        """Get the word."""
        return self.task.word

    @tool
    def repeat(self, text: str, number: int = 0) -> dict[str, Any]:
        """
        Repeat what was said.

        Args:
            text: What to repeat.
            number: What to repeat besides.
        """
        return {"text": text, "number": number}

    @tool
    def break_down(self) -> str:
        """Break."""
        raise ZeroDivisionError("this tool is broken")

    async def reply(self, turn: Turn) -> str | None:
        """Answer whoever asks back."""
        return "Yes, go on." if turn.text.endswith("?") else None

    def verify(self, trajectory: Trajectory) -> float:
        """Pay 1.0 for the word."""
        return float(self.task.word in trajectory.text)

    async def solve(self) -> Solution:
        """Look the word up, and say it."""
        yield say((yield call("look_up")))


def world_row(number: int = 0) -> dict[str, Any]:
    """Return a task of the world, each with a word of its own."""
    return {
        "responses_create_params": {"input": [{"role": "user", "content": f"Which word is it, number {number}?"}]},
        "word": f"word-{number:05d}",
        "task_id": f"world/{number}",
    }
