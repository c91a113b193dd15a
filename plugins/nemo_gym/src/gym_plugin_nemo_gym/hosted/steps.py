"""
One rollout of a server that is played step by step: each reply of the model is a step, and earns what it earns.

Source: `gymnasium_agent` of nemo-gym 0.4.0, which plays the servers of `resources_servers/gymnasium`.
"""

from __future__ import annotations

from typing import Any

from gym_plugin_nemo_gym.served import ServedTask, bounded
from gym_plugin_nemo_gym.session import Session
from gym_plugin_nemo_gym.wire import ServerFault
from gymcore import Reward, Trajectory, Turn
from gymcore.responses import message

__all__ = ["Steps", "with_message"]

MOST_STEPS = 10
"""How many steps there are at most where the configuration of its agent says nothing, as in NeMo Gym."""
LONGEST_METRIC = 1000


class Steps:
    """
    The steps that were taken, and what they have earned.

    Args:
        session: The session over there.
        most: After how many steps it ends.
    """

    def __init__(self, session: Session, most: int | None) -> None:
        self._session = session
        self._most = MOST_STEPS if most is None else most
        self._taken = 0
        self._earned = 0.0
        self._last: dict[str, Any] = {}
        self._first: str | None = None

    async def begin(self) -> str | None:
        """Begin, and return what is seen first; None where that is nothing but the row."""
        self._first = _observation(await self._session.reset(), "/reset")
        return self._first

    async def take(self, turn: Turn, task: ServedTask) -> str | None:
        """
        Take a reply as a step.

        Returns:
            What is seen then, which is the next message; None at the end.

        Raises:
            ServerUnavailable, ServerFault: the step could not be taken, or what was seen is not known.
        """
        await self._step(turn, task)
        if self._is_over or self._taken == self._most:
            return None
        observation = _observation(self._last, "/step")
        if observation is None:
            raise ServerFault("/step was answered with neither an end nor anything to be seen")
        return observation

    async def _step(self, turn: Turn, task: ServedTask) -> None:
        params = task.row.get("responses_create_params", {})
        response = Trajectory(turns=(turn,), stop="finished").to_response("policy", params)
        seen = await self._session.step(response)
        reward = seen.get("reward", 0.0)
        if isinstance(reward, bool) or not isinstance(reward, int | float):
            raise ServerFault(f"/step was answered with the reward {reward!r:.60}, and a reward is a number")
        self._taken += 1
        self._earned += reward
        self._last = seen

    @property
    def _is_over(self) -> bool:
        return bool(self._last.get("terminated") or self._last.get("truncated"))

    async def end(self, trajectory: Trajectory, task: ServedTask) -> Reward:
        """
        Return what all steps have earned.

        A last reply after which the agent asked for nothing more, because it was empty or cut off, is a step, too,
        whatever is seen then.

        Raises:
            ServerUnavailable, ServerFault: that step could not be taken.
        """
        turns = trajectory.turns
        if turns and self._taken < min(len(turns), self._most) and not self._is_over:
            await self._step(turns[-1], task)
        found = self._last.get("info")
        told: dict[str, Any] = found if isinstance(found, dict) else {}
        info, left_out = bounded({"info": told} if told else {})
        metrics = {name: value for name, value in told.items() if _is_told(value)}
        if left_out:
            metrics["left_out"] = left_out
        metrics["steps"] = self._taken
        metrics["terminated"] = bool(self._last.get("terminated"))
        metrics["truncated"] = bool(self._last.get("truncated")) or not self._is_over
        if self._first is not None:
            metrics["first_observation"] = self._first[:LONGEST_METRIC]
        return Reward(value=self._earned, metrics=metrics, info=info)


def with_message(task: ServedTask, text: str) -> ServedTask:
    """Return a task whose prompt ends with one more message of the user."""
    params = task.responses_create_params
    asked = [message(params.input, role="user")] if isinstance(params.input, str) else list(params.input)
    longer = params.model_copy(update={"input": [*asked, message(text, role="user")]})
    return task.model_copy(update={"responses_create_params": longer})


def _observation(value: dict[str, Any], what: str) -> str | None:
    """
    Return what is seen; nothing is None.

    Raises:
        ServerFault: it is no text, or there are results of tools, which are none of this loop.
    """
    seen = value.get("observation")
    if seen is not None and not isinstance(seen, str):
        raise ServerFault(f"{what} was answered with an observation that is no text")
    info = value.get("info")
    if isinstance(info, dict) and info.get("tool_outputs"):
        raise ServerFault(f"{what} was answered with results of tools, which are not played here")
    return seen or None


def _is_told(value: Any) -> bool:
    """Whether what a server tells of a step is kept as a metric."""
    if isinstance(value, str):
        return len(value) <= LONGEST_METRIC
    return value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63)
