"""
What does the model do? `run()` plays every task of a composition and gives a stream of rollouts.
"""

from gymcore.runtime.stream import RolloutStream, Status, run

__all__ = ["RolloutStream", "Status", "run"]
