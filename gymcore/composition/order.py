"""
Which environment's turn it is, row by row, from what a plan says of its mix: shares, batches, phases, and the end.

What a plan asks for that cannot be is found here, with the arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, islice
from math import ceil

from gymcore.composition.mixing import batches, interleave, proportional, rest_of_a_batch, whole_numbers
from gymcore.composition.tokens import WORDS
from gymcore.errors import Problem
from gymcore.plan import MOST_COUNT, MOST_WEIGHT, MixPlan

__all__ = ["Order", "Phase", "mistakes_in"]


def mistakes_in(mix: MixPlan, names: Collection[str], weighted: Collection[str]) -> Iterator[Problem]:
    """
    Yield what contradicts itself in a plan's mix.

    Args:
        mix: What the plan says.
        names: The environments that take part.
        weighted: Those with a weight.
    """
    if mix.schedule:
        yield from _mistakes_in_schedule(mix, names)
        if weighted:
            hint = "try: leave the weights of the environments out; those of the phases hold"
            yield Problem("a schedule has weights of its own", f"environments.{min(weighted)}.weight", (hint,))
    is_once = mix.exhausted == "once"
    if is_once and (weighted or mix.schedule or mix.total):
        told = "every row exactly once leaves no choice of weights or size"
        yield Problem(told, "mix.exhausted", ("try: stop, or repeat",))
    if mix.exhausted == "repeat" and mix.total is None:
        yield Problem("a mix that repeats its rows has no end", "mix.exhausted", ("try: --size N",))
    if mix.weight_by == "tokens" and not weighted and not mix.schedule:
        hint = "try: a weight for each environment, such as --env NAME=2"
        yield Problem("there are no weights that could be shares of tokens", "mix.weight_by", (hint,))
    if mix.weight_by != "tokens" and mix.tokenizer != WORDS:
        told = "a tokenizer counts the tokens that weights are shares of, and here they are shares of rows"
        yield Problem(told, "mix.tokenizer", ("try: --set mix.weight_by=tokens, or leave it out",))


def _mistakes_in_schedule(mix: MixPlan, names: Collection[str]) -> Iterator[Problem]:
    before = 0
    for number, phase in enumerate(mix.schedule):
        where = f"mix.schedule.{number}"
        is_last = number == len(mix.schedule) - 1
        for name in phase.weights:
            if name not in names:
                hint = f"its environments: {', '.join(sorted(names))}"
                yield Problem(f"the plan has no environment {name!r}", f"{where}.weights.{name}", (hint,))
        if not any(phase.weights.values()):
            hint = f"try: {min(names, default='NAME')}: 1"
            yield Problem("no environment has a weight in this phase", f"{where}.weights", (hint,))
        if phase.until is None:
            if not is_last:
                yield Problem("only the last phase may have no end", f"{where}.until")
            continue
        if phase.until <= before:
            yield Problem(f"it ends with row {phase.until:,}, where the phase before it ends already", f"{where}.until")
        if mix.batch is not None and phase.until % mix.batch and not is_last:
            lower = phase.until // mix.batch * mix.batch
            hint = f"try: {' or '.join(f'{end:,}' for end in (lower, lower + mix.batch) if end)}"
            yield Problem(f"it ends within a batch of {mix.batch}", f"{where}.until", (hint,))
        before = phase.until
    last = mix.schedule[-1].until
    if last is not None and mix.size is not None and last != mix.size:
        yield Problem(f"the last phase ends with row {last:,}, and the size is {mix.size:,}", "mix.size")
    elif mix.size is not None and mix.size <= before and last is None:
        yield Problem(f"the last phase begins after row {before:,}, and the size is {mix.size:,}", "mix.size")
    for name in names:
        if not any(phase.weights.get(name) for phase in mix.schedule):
            yield Problem("it has no weight in any phase", f"environments.{name}", ("try: leave it out",))


@dataclass(frozen=True)
class Phase:
    """A stretch of the mix with shares of its own."""

    shares: tuple[int, ...]
    """How many rows the environments get, in relation to each other; in the order of their names."""
    rows: int | None
    """How many rows it has; None for as many as there are."""
    weights: tuple[Fraction, ...] | None = None
    """The weights of which the shares come; None where they come of how many rows there are."""


@dataclass(frozen=True)
class Order:
    """
    The order of a mix.

    Args:
        names: The environments, sorted.
        sizes: How many rows each has, at least one.
        phases: What the shares are, one stretch after the other.
        batch: Rows of a batch, where the shares hold in each; None where they hold in every prefix.
        exhausted: What happens when an environment has no more rows: `once`, `stop` or `repeat`.
        takes_weights: Whether environments could be given weights where none has one.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    phases: tuple[Phase, ...]
    batch: int | None
    exhausted: str
    takes_weights: bool = True

    @classmethod
    def of(
        cls,
        mix: MixPlan,
        sizes: Mapping[str, int],
        weights: Mapping[str, Fraction],
        tokens: Mapping[str, Fraction] | None = None,
    ) -> Order:
        """
        Find out what a plan's mix means for environments of some sizes.

        Args:
            mix: What the plan says.
            sizes: How many rows each environment has, at least one.
            weights: The weight of each environment that has one; 1 where others have.
            tokens: How many tokens a row of each environment has in the mean, where weights are by tokens.
        """
        names = tuple(sorted(sizes))
        counts = tuple(sizes[name] for name in names)
        asked = {name: weights.get(name, Fraction(1)) for name in names} if weights else {}
        stretches: list[tuple[Mapping[str, Fraction], int | None]] = [(asked, mix.size)]
        if mix.schedule:
            stretches, begin = [], 0
            for phase in mix.schedule:
                end = phase.until or mix.size
                rows = None if end is None else end - begin
                stretches.append(({name: Fraction(str(weight)) for name, weight in phase.weights.items()}, rows))
                begin = end or begin
        phases = []
        for stated, rows in stretches:
            shares, given = counts, None
            if stated:
                each = [stated.get(name, Fraction(0)) for name in names]
                given = tuple(each)
                if tokens is not None:  # as many rows as make so many tokens
                    each = [weight / tokens[name] for weight, name in zip(each, names, strict=True)]
                shares = tuple(whole_numbers(each))
            phases.append(Phase(shares, rows, given))
        exhausted = mix.exhausted_or_default(is_weighted=bool(weights))
        return cls(names, counts, tuple(phases), mix.batch, exhausted, takes_weights=mix.exhausted != "once")

    def requested(self, rows: int) -> dict[str, float]:
        """Return the part of a mix of `rows` rows that each environment is to have, from 0.0 to 1.0."""
        parts = [Fraction(0)] * len(self.names)
        left = rows
        for phase in self.phases:
            length = left if phase.rows is None else min(left, phase.rows)
            left -= length
            for index, share in enumerate(phase.shares):
                parts[index] += Fraction(share * length, sum(phase.shares) * rows)
        return {name: float(part) for name, part in zip(self.names, parts, strict=True)}

    def remarks(self, rows: int) -> Iterator[str]:
        """Yield what a person should know of a mix that has become `rows` rows."""
        ends = [phase.rows or 0 for phase in self.phases]
        asked = sum(ends) if self.phases[-1].rows else None
        reached = next((number for number in range(len(ends)) if sum(ends[: number + 1]) >= rows), len(ends) - 1)
        if asked is None and reached < len(ends) - 1:
            where = f"phase {reached + 1} of {len(ends)}"
            yield f"the mix ends with {rows:,} rows in {where}, because an environment has no more"
        if self.exhausted == "stop" and asked is not None and rows < asked:
            why = "because an environment has no more (mix.exhausted: stop)"
            yield f"the mix ends with {rows:,} of {asked:,} rows, {why}"

    def starved(self) -> Iterator[Problem]:
        """Yield what keeps an environment out of some batches: a share below one row."""
        if self.batch is None:
            return
        for number, phase in enumerate(self.phases, start=1):
            total = sum(phase.shares)
            factors = _raised(phase, self.batch)
            for index in _starved(phase.shares, self.batch):
                name, share = self.names[index], phase.shares[index]
                ways = [*self._larger_batch(), *self._weights_for(name)]
                if index in factors:
                    of_phase = f" in phase {number}" if len(self.phases) > 1 else ""
                    ways.append(f"{_decimal(factors[index])} times its weight{of_phase}")
                yield Problem(
                    f"{name} has a share of {share / total:.4%}, which is {share * self.batch / total:.3f} rows of"
                    f" a batch of {self.batch}: below one, so some batches would have none",
                    where="mix.batch",
                    hints=(f"try: {', '.join([*ways, ''])}{'or ' if ways else ''}--allow-starved to have it so",),
                )

    def _larger_batch(self) -> Iterator[str]:
        """Say which batch would be large enough for every environment, where a plan takes it and it can be filled."""
        least = max(
            ceil(Fraction(sum(phase.shares), share)) for phase in self.phases for share in phase.shares if share
        )
        begins = accumulate(phase.rows or 0 for phase in self.phases[:-1])
        if (
            least <= MOST_COUNT
            and not any(begin % least for begin in begins)
            and not any(replace(self, batch=least).impossible())
        ):
            yield f"--batch {least} or more"

    def _weights_for(self, name: str) -> Iterator[str]:
        """Say that weights would do where there are none: with one of them, all environments have the same."""
        assert self.batch is not None
        if self.phases[0].weights is None and self.takes_weights and len(self.names) <= self.batch:
            yield f"a weight for each environment, such as --env {name}=1"

    def impossible(self) -> Iterator[Problem]:
        """Yield why there is no row at all: not even the first batch can be filled."""
        if self.batch is None or self.exhausted != "stop":
            return
        needed = next(batches(self.phases[0].shares, self.batch))
        for name, count, size in zip(self.names, needed, self.sizes, strict=True):
            if count > size:
                yield Problem(
                    f"not even one batch of {self.batch} can be filled: it needs {count:,} rows of {name}, which has"
                    f" {size:,}",
                    where="mix.batch",
                    hints=("try: --size N, for which rows are repeated, or a smaller --batch",),
                )

    def __iter__(self) -> Iterator[int]:
        """Yield the index of the environment whose next row comes next, as often as there are rows."""
        left = None if self.exhausted == "repeat" else list(self.sizes)
        for phase in self.phases:
            rows = sum(self.sizes) if self.exhausted == "once" else phase.rows
            for chosen in self._stretches(phase, rows):
                if left is not None:
                    for index in chosen:
                        left[index] -= 1
                    if min(left) < 0:
                        yield from self._until_exhausted(chosen, left)
                        return
                yield from chosen

    def _until_exhausted(self, chosen: Sequence[int], left: list[int]) -> Iterator[int]:
        """Yield what of a stretch there still are rows for; nothing of a batch, which is whole or not there."""
        if self.batch is not None:
            return
        for index in chosen:
            left[index] += 1
        for index in chosen:
            left[index] -= 1
            if left[index] < 0:
                return
            yield index

    def _stretches(self, phase: Phase, rows: int | None) -> Iterator[Sequence[int]]:
        """Yield the choices of a phase in stretches: batches, where there are some."""
        if self.batch is None:
            choices = islice(proportional(phase.shares), rows)
            while stretch := list(islice(choices, 1024)):
                yield stretch
            return
        done = [0] * len(phase.shares)
        whole = None if rows is None else rows // self.batch
        for counts in islice(batches(phase.shares, self.batch), whole):
            done = [had + count for had, count in zip(done, counts, strict=True)]
            yield _within_a_batch(tuple(counts))
        if rows is not None and rows % self.batch:
            yield list(interleave(rest_of_a_batch(phase.shares, done, rows % self.batch)))


def _starved(shares: Sequence[int], batch: int) -> list[int]:
    """Return the indices of the shares that are below one row of a batch."""
    total = sum(shares)
    return [index for index, share in enumerate(shares) if 0 < share * batch < total]


def _raised(phase: Phase, batch: int) -> dict[int, Fraction]:
    """
    Return how many times its weight each starved environment needs so that none is, when the others keep theirs.

    Nothing where there are no weights, or none that a plan takes would do. Factors have three digits; because each is
    rounded up, which leaves less for the others, some room is tried for all of them.
    """
    starved = _starved(phase.shares, batch)
    if phase.weights is None or not 0 < len(starved) < batch:
        return {}
    others = sum(phase.shares) - sum(phase.shares[index] for index in starved)
    least = Fraction(others, batch - len(starved))
    for room in range(100, 150):
        factors = {index: _rounded_up(least * room / 100 / phase.shares[index]) for index in starved}
        raised = [share * factors.get(index, 1) for index, share in enumerate(phase.shares)]
        if not _starved(whole_numbers([Fraction(share) for share in raised]), batch):
            is_taken = all(phase.weights[index] * factor <= Fraction(MOST_WEIGHT) for index, factor in factors.items())
            return factors if is_taken else {}
    return {}


def _rounded_up(number: Fraction) -> Fraction:
    """Round a number of at least 1 up to three digits."""
    step = Fraction(10) ** (len(str(int(number))) - 3)
    return ceil(number / step) * step


def _decimal(number: Fraction) -> str:
    """Write a number of three digits as one types it."""
    return str(number) if number.denominator == 1 else f"{float(number):g}"


@lru_cache(maxsize=1024)
def _within_a_batch(counts: tuple[int, ...]) -> Sequence[int]:
    """Spread the rows of a batch; batches differ by a row here and there, so few are worked out."""
    return tuple(interleave(counts))
