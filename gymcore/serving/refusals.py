"""
What the wire says when something cannot be done: a status, and one JSON object that says what happened and what to try.

Nothing of it holds a traceback or an option of a plugin. What a plugin's own error says is passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from gymcore.documents import encode_json
from gymcore.errors import EndpointError, GymcoreError, PluginError, StorageError
from gymcore.records import Failure, Row

__all__ = ["FailedRollout", "Refusal", "RefusedRow", "json_response", "refusal_of_error", "stopping"]


class Refusal(Exception):
    """
    A request that is not carried out.

    Args:
        status: The HTTP status.
        message: What happened, in one sentence.
        hints: What to try, one line each.
        further: Further keys of the answer.
        headers: Further headers of it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        hints: Iterable[str] = (),
        further: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.hints = tuple(hints)
        self.further = further or {}
        self.headers = headers or {}
        super().__init__(message)

    @property
    def told(self) -> dict[str, Any]:
        """What is told of it."""
        return {"message": self.message, **({"hints": self.hints} if self.hints else {}), **self.further}

    def response(self) -> Response:
        """Return the answer that says so."""
        return self.answered({"error": self.told})

    def answered(self, told: Any) -> Response:
        """Return an answer that says so in other words; OpenAI's and Anthropic's clients read its header."""
        is_final = self.status == 501 or self.further.get("retryable") is False
        return json_response(told, self.status, {**self.headers, **({"x-should-retry": "false"} if is_final else {})})


class FailedRollout(Refusal):
    """
    A rollout that gave no reward.

    Args:
        failure: Why.
        again: What to ask for where another attempt may succeed.
        played: The row that was played, where one was.
    """

    def __init__(self, failure: Failure, again: str = "the same request again", *, played: Row | None = None) -> None:
        # A bound on a tool or a verifier is met in the stage that it bounds.
        other = 504 if failure.error == TimeoutError.__name__ else 500
        status = {"model": 502, "timeout": 504, "worker": 503}.get(failure.stage, other)
        told = f"the rollout failed ({failure.stage}): {failure.error}: {failure.message}"
        further = {"stage": failure.stage, "type": failure.error, "retryable": failure.retryable}
        hints = [f"try: {again}"] if failure.retryable else ["the same request will fail again"]
        super().__init__(status, told, hints=hints, further=further)
        self.played = played

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return what a collector keeps beside its rollouts, and goes on; it has no reward.

        Sent again it is the same task, also where the row had a reward of its own, which then stands in its route.
        """
        if self.played is not None and not _OF_ROLLOUTS.isdisjoint(row):
            row = {**row, **self.played.value}
        kind = f"{self.further['stage']}: {self.further['type']}"
        return _kept_as_failed(row, self, kind, is_terminal=not self.further["retryable"])


class RefusedRow(Refusal):
    """
    A row that cannot be played.

    Args:
        refusal: Why.
        row: What was sent.
    """

    def __init__(self, refusal: Refusal, row: Mapping[str, Any]) -> None:
        super().__init__(
            refusal.status, refusal.message, hints=refusal.hints, further=refusal.further, headers=refusal.headers
        )
        self.row = row

    def answer(self) -> dict[str, Any]:
        """Return what a collector keeps beside its rollouts, and goes on; it has no reward."""
        return _kept_as_failed(self.row, self, "row: refused", is_terminal=True)


_OF_ROLLOUTS = frozenset({"reward", "response"})
"""The keys by which a collector takes a row for a rollout that was scored."""


def _kept_as_failed(row: Mapping[str, Any], refusal: Refusal, kind: str, *, is_terminal: bool) -> dict[str, Any]:
    """
    Return a row that a collector puts aside as one that failed; it may have had a reward of its own.

    Source: rollout_collection.py of nemo-gym 0.4.0, which ends at any status of 400 or more.
    """
    return {
        **{key: item for key, item in row.items() if key not in _OF_ROLLOUTS},
        "_ng_failure_class": kind,
        "_ng_failure_terminal": is_terminal,
        "failure": {"message": refusal.message, **refusal.further},
    }


def stopping() -> Refusal:
    """Return what is said to whoever comes while the server stops, or is not answered before it ends."""
    return Refusal(503, "the server is stopping", hints=["try: again when it is back"], headers={"retry-after": "5"})


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as a JSON answer."""
    return Response(encode_json(value), status, headers, media_type="application/json")


def refusal_of_error(error: GymcoreError) -> Refusal:
    """Return what the wire says of an error that stops more than one rollout."""
    status = 502 if isinstance(error, EndpointError) else 507 if isinstance(error, StorageError) else 500
    if isinstance(error, EndpointError | PluginError):
        return Refusal(status, error.message, further={"type": type(error).__name__})
    return Refusal(status, f"{type(error).__name__}: what happened was said where the server runs")
