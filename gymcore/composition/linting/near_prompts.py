"""
Prompts that are nearly the same, found by their sketches: the lowest hashes of their word triples.

Two sketches of k hashes tell how much of two sets of triples is common (bottom-k sketches, after A. Broder, "On the
resemblance and containment of documents", 1997). A library for this (datasketch) would bring numpy, and hashes every
triple with several functions; one function with the k lowest values is a screen of code and costs microseconds.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["COMMON", "Near", "NearPrompts", "sketch_of", "words_of"]

SKETCH = 16
"""Hashes kept of a prompt."""
INDEXED = 5
"""The lowest of them, by which others are found: that none of five is common to two that share 0.8 is most unlikely."""
LEAST_WORDS = 8
"""Shorter texts are never nearly the same: one word more or less changes their meaning."""
ALIKE = 0.8
"""How much of their triples two prompts must share."""
CUT = 500
"""Of a text that is longer than twice this many characters, the first and the last so many are looked at."""
COMMON = 4
"""A hash that more prompts of one owner have belongs to a template and leads nowhere."""
WAITING, LEARNED = 8, 64
"""So many prompts of an owner wait until its template is known, and from so many it is learned."""
ROWS = 30_000
"""How many sketches are kept, of all owners together."""

_CODES = 1 << 30


class _WordCodes(dict[str, int]):
    """A number of 30 bits for each word, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) > 50_000:
            self.clear()
        code = self[word] = zlib.crc32(word.encode("utf-8", "replace")) >> 2
        return code


def words_of(text: str, codes: dict[str, int]) -> list[int] | None:
    """
    Return the numbers of a text's words in order, or None where it has too few.

    Args:
        text: The text; upper and lower case are the same.
        codes: The numbers of words.
    """
    if len(text) > 2 * CUT:
        text = f"{text[:CUT]} {text[-CUT:]}"
    text = text.lower()
    words: Iterable[str] = text.split()
    if len(words) * 20 < len(text):  # type: ignore[arg-type] # a script without spaces
        words = text.replace(" ", "")
    numbers = list(map(codes.__getitem__, words))
    return None if len(numbers) < LEAST_WORDS else numbers


def sketch_of(words: list[int], common: set[int], reach: float = 1.0) -> tuple[list[int], float]:
    """
    Return the lowest hashes of a text's word triples in order.

    Args:
        words: The numbers of its words.
        common: Triples that are left out, unless hardly any others are left.
        reach: How many times as many triples as usual are looked at.

    Returns:
        The hashes, and the `reach` that such texts need.
    """
    # A triple is ordered by its first word, so that most are left out by one comparison; all of those stand above.
    count = len(words)
    bound = min(int(_CODES * 3 * SKETCH // 2 * reach) // count, _CODES) if count > 2 * SKETCH else _CODES
    hashes = _triples(words, bound)
    own = hashes - common
    if len(own) < SKETCH and bound < _CODES:
        hashes = _triples(words, _CODES)
        own = hashes - common
        reach = len(hashes) / (len(own) or 1)
    return sorted(own if len(own) > LEAST_WORDS - 3 else hashes)[:SKETCH], reach


def _triples(numbers: list[int], bound: int) -> set[int]:
    triples = zip(numbers, numbers[1:], numbers[2:], strict=False)
    return {one << 30 | (two ^ three >> 3) for one, two, three in triples if one < bound}


class Near(NamedTuple):
    """A prompt that is nearly the same as another."""

    owner: int
    """Whose the other is."""
    token: int
    """What names its place."""
    features: tuple[int, ...]
    """The hashes that led to it."""


class _Prompt(NamedTuple):
    """A prompt that waits until it is known what it shares with others of its owner."""

    rest: int
    token: int
    words: list[int]
    others: Iterable[tuple[int, bool]]


@dataclass
class _Learning:
    """What is known of the template of an owner's prompts."""

    seen: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    """How many of the first prompts have each triple."""
    waiting: list[_Prompt] = field(default_factory=list)
    reach: float = 1.0
    """How many times as many triples as usual are looked at, because so many are of the template."""


class NearPrompts:
    """
    The sketches of many prompts; some 600 bytes each.

    What more than `COMMON` of an owner's first prompts have belongs to its template, and is left out of every sketch,
    so that the same questions are found under other instructions. Its very first prompts wait until that is known.
    """

    def __init__(self) -> None:
        self.codes = _WordCodes()
        self._sketches = array("Q")
        """`SKETCH` numbers for each prompt; one with fewer has zeros after them."""
        self._rests = array("q")
        self._tokens = array("Q")
        self._index: dict[int, dict[int, int]] = {}
        """For each owner, and each hash: the number of the first prompt with it, times eight, and how many have it."""
        self._learning: dict[int, _Learning] = {}
        self._common: set[int] = set()
        """The triples of templates, of all owners."""

    def add(
        self, owner: int, rest: int, token: int, text: str, others: Iterable[tuple[int, bool]]
    ) -> Iterable[tuple[int, Near]]:
        """
        Look for prompts that are nearly this one among those of other owners, and keep this one.

        Args:
            owner: The number of whose prompt it is.
            rest: A hash of what stands around it, such as instructions.
            token: What names its place.
            text: The prompt.
            others: Whose prompts to compare with, and whether `rest` must be the same.

        Returns:
            The token of this prompt, or of one that waited, and the other that is most like it; none where no other is.
            Whether both are only of one template is known in the end.
        """
        words = words_of(text, self.codes)
        if words is None:
            return ()
        learning = self._learning.get(owner)
        if learning is None:
            learning = self._learning[owner] = _Learning()
        prompt = _Prompt(rest, token, words, others)
        if learning.seen >= LEARNED:
            near = self._compared(owner, prompt, learning)
            return () if near is None else ((token, near),)
        self._learn(learning, words)
        learning.waiting.append(prompt)
        return () if learning.seen < WAITING else self._settled(owner, learning)

    def rest(self) -> list[tuple[int, Near]]:
        """Return what is nearly the same among the prompts that still wait, as `add` does."""
        return [found for owner, learning in self._learning.items() for found in self._settled(owner, learning)]

    def _learn(self, learning: _Learning, words: list[int]) -> None:
        counts = learning.counts
        for triple in _triples(words, _CODES):
            count = counts[triple] = counts.get(triple, 0) + 1
            if count == COMMON + 1:
                self._common.add(triple)
        learning.seen += 1
        if learning.seen == LEARNED:
            learning.counts = {}

    def _settled(self, owner: int, learning: _Learning) -> list[tuple[int, Near]]:
        waiting, learning.waiting = learning.waiting, []
        found = ((prompt.token, self._compared(owner, prompt, learning)) for prompt in waiting)
        return [(token, near) for token, near in found if near is not None]

    def _compared(self, owner: int, prompt: _Prompt, learning: _Learning) -> Near | None:
        """Return the prompt of another owner that is most like one, and keep the one."""
        sketch, learning.reach = sketch_of(prompt.words, self._common, learning.reach)
        best, near = 0.0, None
        for other, same in prompt.others:
            index = self._index.get(other)
            if index is None:
                continue
            for number in {index.get(feature, 7) for feature in sketch[:INDEXED]}:
                if number & 7 > COMMON:
                    continue
                place = number >> 3
                if same and self._rests[place] != prompt.rest:
                    continue
                alike = _alike(sketch, self._sketches[place * SKETCH : (place + 1) * SKETCH])
                if alike >= ALIKE and alike > best:
                    features = tuple(feature for feature in sketch[:INDEXED] if index.get(feature) == number)
                    best, near = alike, Near(other, self._tokens[place], features)
        if len(self._rests) < ROWS:
            self._keep(owner, sketch, prompt.rest, prompt.token, self._index.setdefault(owner, {}))
        return near

    def is_template(self, owner: int, near: Near) -> bool:
        """Whether what a prompt of an owner shares with another one is what many of either have."""
        own, other = self._index.get(owner, {}), self._index.get(near.owner, {})
        return all(own.get(feature, 0) & 7 > COMMON or other.get(feature, 0) & 7 > COMMON for feature in near.features)

    def _keep(self, owner: int, sketch: list[int], rest: int, token: int, index: dict[int, int]) -> None:
        number = len(self._rests)
        self._sketches.extend(sketch)
        self._sketches.extend([0] * (SKETCH - len(sketch)))
        self._rests.append(rest)
        self._tokens.append(token)
        for feature in sketch[:INDEXED]:
            before = index.get(feature)
            if before is None:
                index[feature] = number << 3 | 1
            elif before & 7 <= COMMON:
                index[feature] = before + 1


def _alike(one: Iterable[int], other: Iterable[int]) -> float:
    """Estimate how much of two sets is common, from their lowest members."""
    first, second = set(one), set(other) - {0}
    common = first & second
    lowest = sorted(first | second)[:SKETCH]
    return sum(member in common for member in lowest) / len(lowest)
