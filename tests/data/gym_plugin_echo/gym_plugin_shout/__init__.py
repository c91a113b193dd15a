"""
Shout anything: an environment without options or tools.
"""

from gymcore import Environment, Solution, Trajectory, say


class Shout(Environment):
    """Say something in capitals."""

    def verify(self, trajectory: Trajectory) -> float:
        """Pay 1.0 for capitals."""
        return float(trajectory.text.isupper())

    async def solve(self) -> Solution:
        """Shout."""
        yield say("HELLO")
