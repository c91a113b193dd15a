"""
Say nothing: an environment without rows, tools or a reference solution.
"""

from gymcore import Environment, Trajectory


class Mute(Environment):
    """Say nothing at all."""

    max_turns = 4

    def verify(self, trajectory: Trajectory) -> float:
        """Pay 1.0 for silence."""
        return float(not trajectory.text)
