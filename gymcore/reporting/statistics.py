"""
The statistics of a report; each formula with its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Interval", "mean_interval", "pass_at_k", "quantiles"]

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds between which the true one lies in 95 of 100 such experiments."""

    mean: float
    low: float
    high: float


def pass_at_k(rewards: Sequence[float], k: int, *, threshold: float = 1.0) -> float:
    """
    Estimate the chance that at least one of `k` rollouts of a task succeeds.

    Args:
        rewards: One reward per rollout, all of the same task, in any order.
        k: Rollouts drawn; from 1 to `len(rewards)`.
        threshold: The smallest reward that counts as a success.

    Returns:
        A probability, 0.0 to 1.0.

    Raises:
        ValueError: `k` is below 1 or above the number of rewards.

    Source:
        Chen et al. 2021, section 2.1, https://arxiv.org/abs/2107.03374

    Example:
        >>> pass_at_k([1.0, 0.0, 0.0, 0.0], k=2)
        0.5
    """
    n = len(rewards)
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to {n}, not {k}")
    failures = sum(reward < threshold for reward in rewards)
    return 1.0 - math.comb(failures, k) / math.comb(n, k)


def mean_interval(groups: Iterable[Sequence[float]]) -> Interval | None:
    """
    Return the mean reward over all rollouts with its 95 % interval, counting tasks and not rollouts as independent.

    The rollouts of one task resemble each other, so the standard error is clustered by task.
    Where every reward is 0 or 1, the interval is Wilson's, with the effective number of rollouts that the clustered
    error implies: it stays inside 0 to 1 and does not shrink to a point when all rewards are equal.

    Args:
        groups: The rewards of each task; gone through several times.

    Returns:
        The interval, or None without any reward; for a single task its bounds are the widest possible.

    Source:
        Clustered errors: Miller 2024, section 2.2, https://arxiv.org/abs/2411.00640
        Wilson's score interval: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
        Effective number: Korn and Graubard 1998, Survey Methodology 24, pages 193-201
    """
    if isinstance(groups, Iterator):
        groups = list(groups)
    n = count = 0
    is_binary = True
    for group in groups:
        n += len(group)
        count += bool(group)
        is_binary = is_binary and all(reward in (0.0, 1.0) for reward in group)
    if not n:
        return None
    try:
        mean = math.fsum(reward for group in groups for reward in group) / n
        residuals = math.fsum(math.fsum(reward - mean for reward in group) ** 2 for group in groups)
    except OverflowError:  # rewards near the largest number there is
        return Interval(math.fsum(reward / n for group in groups for reward in group), -math.inf, math.inf)
    variance = residuals / n**2 * (count / (count - 1) if count > 1 else 1.0)
    if is_binary:
        effective = mean * (1.0 - mean) / variance if variance > 0 else float(count)
        return _wilson(mean, min(max(effective, 1.0), float(n)))
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    margin = Z * math.sqrt(variance)
    return Interval(mean, mean - margin, mean + margin)


def _wilson(share: float, n: float) -> Interval:
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    margin = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # Rounding must not push a bound past the mean it belongs to.
    return Interval(share, max(0.0, min(centre - margin, share)), min(1.0, max(centre + margin, share)))


def quantiles(ordered: Iterable[float], count: int, shares: Sequence[float]) -> list[float]:
    """
    Return the values below which some shares of the ordered values lie, by linear interpolation.

    Args:
        ordered: The values from the smallest to the largest; gone through once.
        count: How many there are, at least 1.
        shares: Which quantiles, each from 0 to 1.
    """
    places = [(count - 1) * share for share in shares]
    wanted = {index for place in places for index in (math.floor(place), min(math.floor(place) + 1, count - 1))}
    values = {}
    for index, value in enumerate(ordered):
        if index in wanted:
            values[index] = value
            if len(values) == len(wanted):
                break
    found = []
    for place in places:
        low = values[math.floor(place)]
        high = values[min(math.floor(place) + 1, count - 1)]
        found.append(low + (high - low) * (place - math.floor(place)))
    return found
