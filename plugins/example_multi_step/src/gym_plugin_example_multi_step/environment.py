"""
The synonyms environment: several lookups, one submission, one answer.
"""

from collections.abc import Sequence

from gymcore import Environment, Reward, Solution, Task, Trajectory, call, say, tool

__all__ = ["ExampleMultiStep", "Synonyms", "value_of"]


class Synonyms(Task):
    """One query; a perfect agent submits `expected_synonym_values`, in that order."""

    expected_synonyms: list[str]
    """What has to be looked up, in order."""
    expected_synonym_values: list[int]
    """What has to be submitted, in order."""
    id: int | str | None = None
    minefield_label: str | None = None
    """The trap: the term itself, which must not be looked up."""
    minefield_label_value: int | None = None


def value_of(word: str) -> int:
    """Return the value of a word: the sum of its code points."""
    return sum(map(ord, word))


class ExampleMultiStep(Environment[Synonyms]):
    """Look synonyms up one at a time, then submit their values in order."""

    @tool
    def get_synonym_value(self, synonym: str) -> dict[str, int]:
        """
        Get the value of one synonym.

        Args:
            synonym: The synonym, spelled as it is listed.
        """
        return {"synonym_value": value_of(synonym)}

    @tool
    def extract_synonym_values(self, synonym_values: list[int]) -> dict[str, bool]:
        """
        Submit the values that were looked up.

        Args:
            synonym_values: One value per synonym, in the order in which the synonyms are listed.
        """
        return {"success": True}

    def verify(self, trajectory: Trajectory) -> Reward:
        """Pay 1.0 when the last submission equals the expected values, else 0.0."""
        expected = self.task.expected_synonym_values
        submitted = _submitted(trajectory)
        is_right = submitted == expected
        overlap = _overlap(submitted, expected)
        return Reward(
            value=1.0 if is_right else 0.0,
            metrics={
                "accuracy": is_right,
                "set_overlap": overlap,
                "original_term_minefield_hit": (
                    self.task.minefield_label_value is not None and self.task.minefield_label_value in submitted
                ),
                "order_instruction_following_failure": not is_right and overlap == 1.0,
            },
        )

    async def solve(self) -> Solution:
        """Look every expected synonym up, submit the values, and say so."""
        values = []
        for synonym in self.task.expected_synonyms:
            found = yield call("get_synonym_value", synonym=synonym)
            values.append(found["synonym_value"])
        yield call("extract_synonym_values", synonym_values=values)
        yield say(f"I submitted the values {values}.")


def _submitted(trajectory: Trajectory) -> list[int]:
    """Return the integers of the last submission; empty when there is none, or when it is no list of integers."""
    last = trajectory.last_call("extract_synonym_values")
    values = last.parsed().get("synonym_values") if last is not None else None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        return []
    return values


def _overlap(submitted: Sequence[int], expected: Sequence[int]) -> float:
    """Return the share of the expected values that were submitted, whatever their order; 0.0 to 1.0."""
    wanted = set(expected)
    return len(wanted & set(submitted)) / len(wanted) if wanted else float(not submitted)
