"""
The order in which the tasks of several environments follow each other: exact, not random.

Arithmetic only, and all of it in whole numbers: shares come in, indices come out, for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from math import ceil, floor, gcd, lcm

__all__ = ["batches", "interleave", "proportional", "rest_of_a_batch", "whole_numbers"]


def interleave(sizes: Sequence[int]) -> Iterator[int]:
    """
    Spread several ordered collections evenly over one.

    In every prefix of the result, the count of each collection differs from its proportional share by less than one.

    Args:
        sizes: How many elements each collection has, 0 or more.

    Yields:
        The index of the collection whose next element comes next, `sum(sizes)` times.

    Example:
        >>> list(interleave([2, 4]))
        [1, 0, 1, 1, 0, 1]
    """
    return islice(proportional(sizes), sum(sizes))


def proportional(shares: Sequence[int]) -> Iterator[int]:
    """
    Choose among several collections for ever, each as often as its share says.

    In every prefix of n choices, the count of a collection with share s differs from s * n / sum(shares) by less than
    one.

    Args:
        shares: How they relate, 0 or more; at least one is more.

    Yields:
        The index of the collection that comes next.

    Source:
        The j-th element of a collection of s among n must stand at a position from floor((j-1)n/s)+1 to ceil(jn/s)
        for the bound to hold; taking the earliest deadline first always meets them all.
        Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time processes",
        https://doi.org/10.1287/mnsc.39.6.728

    Example:
        >>> from itertools import islice
        >>> list(islice(proportional([1, 3]), 8))
        [1, 1, 0, 1, 1, 1, 0, 1]
    """
    total = sum(shares)
    done = [0] * len(shares)
    released = [(1, index) for index, share in enumerate(shares) if share]
    ready: list[tuple[int, int]] = []
    position = 0
    while released or ready:
        position += 1
        while released and released[0][0] <= position:
            _, index = heapq.heappop(released)
            deadline = -(-(done[index] + 1) * total // shares[index])
            heapq.heappush(ready, (deadline, index))
        _, index = heapq.heappop(ready)
        yield index
        done[index] += 1
        heapq.heappush(released, (done[index] * total // shares[index] + 1, index))


def batches(shares: Sequence[int], batch: int) -> Iterator[list[int]]:
    """
    Divide batches of the same size among several collections for ever.

    Every batch holds the floor or the ceiling of each collection's share of it, and after every batch the count of a
    collection differs from its share of all rows so far by less than one.

    Args:
        shares: How the collections relate, 0 or more; at least one is more.
        batch: Rows of a batch.

    Yields:
        How many rows of the next batch each collection gets; they sum to `batch`.

    Source:
        The whole parts of the shares are the same in every batch. What is left is to choose, for each batch, the
        collections that get one row more, each as often as the fraction of its share says and none twice in a batch:
        fair scheduling of tasks on identical processors, for which a schedule within the bounds always exists
        (Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress", https://doi.org/10.1007/BF01940883) and is
        found without looking ahead by the rule of `_Turn` (Anderson and Srinivasan 2001, "Mixed Pfair/ERfair
        scheduling of asynchronous periodic tasks", https://doi.org/10.1109/EMRTS.2001.934004).

    Example:
        >>> list(islice(batches([1, 2], 4), 3))
        [[1, 3], [1, 3], [2, 2]]
    """
    total = sum(shares)
    whole = [share * batch // total for share in shares]
    turns = [_Turn(Fraction(share * batch % total, total)) for share in shares]
    waiting = [index for index, turn in enumerate(turns) if turn.weight]
    more = batch - sum(whole)
    number = 0
    while True:
        number += 1
        ready = [index for index in waiting if turns[index].release < number]
        counts = whole.copy()
        for index in heapq.nsmallest(more, ready, key=lambda index: (*turns[index].urgency, index)):
            counts[index] += 1
            turns[index].take()
        yield counts


def rest_of_a_batch(shares: Sequence[int], done: Sequence[int], rows: int) -> list[int]:
    """
    Divide a last batch, which has fewer rows than the others, so that all rows together come as close as they can.

    Args:
        shares: As for `batches`.
        done: How many rows each collection has already.
        rows: Rows of the last batch.

    Returns:
        How many of them each collection gets.
    """
    total, all_rows = sum(shares), sum(done) + rows
    counts = [0] * len(shares)
    for _ in range(rows):
        behind = [
            share * all_rows - (had + count) * total for share, had, count in zip(shares, done, counts, strict=True)
        ]
        counts[max(range(len(shares)), key=behind.__getitem__)] += 1
    return counts


def whole_numbers(weights: Sequence[Fraction]) -> list[int]:
    """
    Return the smallest whole numbers that relate as some fractions do.

    Example:
        >>> whole_numbers([Fraction(1, 2), Fraction(3, 4), Fraction(0)])
        [2, 3, 0]
    """
    denominator = lcm(*(weight.denominator for weight in weights))
    numbers = [int(weight * denominator) for weight in weights]
    divisor = gcd(*numbers) or 1
    return [number // divisor for number in numbers]


class _Turn:
    """
    When a collection is to get its next extra row.

    Its j-th extra row must come in one of the batches `release` + 1 to `deadline`. Where several wait and not all can
    have one, the earliest deadline comes first; then whoever's next row may come in the very batch of the deadline,
    because waiting would leave it two at once; then whoever starts the longest chain of such rows.
    """

    __slots__ = ("_number", "deadline", "release", "urgency", "weight")

    def __init__(self, weight: Fraction) -> None:
        self.weight = weight
        self._number = 0
        if weight:
            self.take()

    def take(self) -> None:
        """Go on to the next row."""
        weight = self.weight
        self.release = floor(self._number / weight)
        self._number += 1
        end = self._number / weight
        self.deadline = ceil(end)
        overlaps = self.deadline > floor(end)
        chain = 0
        if weight >= Fraction(1, 2):
            rest = 1 - weight
            chain = ceil(ceil(self.deadline * rest) / rest)
        self.urgency = (self.deadline, not overlaps, -chain)
