"""
The order in which the tasks of several environments follow each other: exact, not random.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

__all__ = ["interleave"]


def interleave(sizes: Sequence[int]) -> Iterator[int]:
    """
    Spread several ordered collections evenly over one.

    In every prefix of the result, the count of each collection differs from its proportional share by less than one.

    Args:
        sizes: How many elements each collection has, 0 or more.

    Yields:
        The index of the collection whose next element comes next, `sum(sizes)` times.

    Source:
        The j-th element of a collection of s among n must stand at a position from floor((j-1)n/s)+1 to ceil(jn/s)
        for the bound to hold; taking the earliest deadline first always meets them all.
        Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time processes",
        https://doi.org/10.1287/mnsc.39.6.728

    Example:
        >>> list(interleave([2, 4]))
        [1, 0, 1, 1, 0, 1]
    """
    total = sum(sizes)
    done = [0] * len(sizes)
    released = [(1, index) for index, size in enumerate(sizes) if size]
    ready: list[tuple[int, int]] = []
    for position in range(1, total + 1):
        while released and released[0][0] <= position:
            _, index = heapq.heappop(released)
            deadline = -(-(done[index] + 1) * total // sizes[index])
            heapq.heappush(ready, (deadline, index))
        _, index = heapq.heappop(ready)
        yield index
        done[index] += 1
        if done[index] < sizes[index]:
            heapq.heappush(released, (done[index] * total // sizes[index] + 1, index))
