"""
The model that knows the answer: it plays each environment's own `solve()`.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from gymcore.documents import DocumentError, decode_json
from gymcore.errors import ModelError
from gymcore.interfaces import Environment, Model, RolloutContext, Say, Solution
from gymcore.records import ToolCall
from gymcore.responses import Item, Request, Response, function_call, message, text_of

__all__ = ["Oracle"]


class Oracle(Model):
    """Plays reference solutions, one step of `solve()` for every reply."""

    def objection(self, environment: type[Environment[Any, Any]]) -> str | None:
        """An environment without a reference solution cannot be played."""
        if environment.is_solvable():
            return None
        return (
            f"{environment.__name__} has no reference solution (solve), which the model 'oracle' plays; "
            "choose another with --model"
        )

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Take the next step of the solution, handing it what came of the last one."""
        solution: Solution | None = rollout.state.get(self)
        number = rollout.state[self, "steps"] = rollout.state.get((self, "steps"), 0) + 1
        try:
            if solution is None:
                solution = rollout.state[self] = rollout.environment.solve()
                await rollout.stack.enter_async_context(aclosing(solution))
                step = await anext(solution)
            else:
                step = await solution.asend(_outcome(request.input, rollout.state[self, "asked"]))
            output = _items(step, number)
        except StopAsyncIteration:
            return Response(output=[], status="completed", model="oracle")
        except Exception as error:
            message_ = f"solve() of {type(rollout.environment).__name__} raised {type(error).__name__}: {error}"
            raise ModelError(message_, retryable=False) from error
        rollout.state[self, "asked"] = step
        return Response(output=output, status="completed", model="oracle", id=f"resp_{number}")


def _items(step: Any, number: int) -> list[Item]:
    """Return the output items by which a model takes one step of a solution, whatever was yielded."""
    if isinstance(step, Say):
        return [message(step.text)]
    calls = [step] if isinstance(step, ToolCall) else step
    if not isinstance(calls, list | tuple) or not all(isinstance(call, ToolCall) for call in calls):
        raise TypeError(f"a solution yields call(...), a list of them, or say(...), not a {type(step).__name__}")
    return [function_call(call.name, call.arguments, f"call_{number}_{index}") for index, call in enumerate(calls)]


def _outcome(items: tuple[Item, ...], asked: Say | ToolCall | list[ToolCall]) -> Any:
    """Return what came of a step: a tool's result, a list of them, or the environment's next user message."""
    if isinstance(asked, Say):
        return text_of(items[-1]) if items and items[-1].get("role") == "user" else None
    count = 1 if isinstance(asked, ToolCall) else len(asked)
    results = [_parsed(str(item.get("output", ""))) for item in items[-count:]]
    return results[0] if isinstance(asked, ToolCall) else results


def _parsed(text: str) -> Any:
    try:
        return decode_json(text.encode("utf-8", "replace"))
    except DocumentError:
        return text
