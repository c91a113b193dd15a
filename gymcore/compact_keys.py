"""
Sets and numberings of millions of keys that only grow, in a few bytes a key and without an object for each.

A key is remembered as 96 bits of its BLAKE2b digest: that two of a million different keys are taken for one another
has a chance below 1e-15, that two of a thousand million are, one below 1e-9, and nobody can choose keys so that it
happens.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Self

__all__ = ["KeyNumbers", "KeySet"]

_BUCKETS = 1 << 16
"""
The first two bytes of a digest choose its bucket, which holds the other ten. A bucket is a byte string: it has no room
to spare, and is searched in C. A million keys make 15 a bucket, a hundred million 1,500, found in a few microseconds.
"""
_NUMBER_BYTES = 4
_ENTRY_BYTES = 10 + _NUMBER_BYTES


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=12).digest()


def _place(digest: bytes) -> tuple[int, bytes]:
    """Return the number of the bucket in which a key is remembered, and as what."""
    return digest[0] << 8 | digest[1], digest[2:12]


class _Buckets:
    """What sets and numberings share: buckets of which only the changed ones are copied."""

    def __init__(self) -> None:
        self._buckets = [b""] * _BUCKETS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def copy(self) -> Self:
        """Return a copy that further keys do not change; what both hold is in memory once."""
        other = type(self)()
        other._buckets = self._buckets.copy()
        other._count = self._count
        return other


class KeySet(_Buckets):
    """Which keys were added; 16 MB a million."""

    def add(self, key: bytes) -> bool:
        """Add a key, and return whether it is new."""
        index, rest = _place(_digest(key))
        bucket = self._buckets[index]
        if rest in bucket:
            return False
        self._buckets[index] = bucket + rest
        self._count += 1
        return True

    def __contains__(self, key: bytes) -> bool:
        index, rest = _place(_digest(key))
        return rest in self._buckets[index]


class KeyNumbers(_Buckets):
    """
    A number for each key, from 0 in the order of their first appearance; 20 MB a million, 4,294,967,296 at most.

    Example:
        >>> numbers = KeyNumbers()
        >>> [numbers.number(key) for key in (b"red", b"blue", b"red")]
        [0, 1, 0]
    """

    def find(self, key: bytes) -> int | None:
        """Return the number of a key, or None where it has none."""
        index, rest = _place(_digest(key))
        return _found(self._buckets[index], rest)

    def number(self, key: bytes) -> int:
        """Return the number of a key; a new key gets the next one, which was `len()` until then."""
        return self.number_of(_digest(key))

    def number_of(self, digest: bytes) -> int:
        """Do the same for a key that is summed up already, in a digest of 12 bytes or more."""
        index, rest = _place(digest)
        bucket = self._buckets[index]
        number = _found(bucket, rest)
        if number is not None:
            return number
        number = self._count
        self._buckets[index] = bucket + rest + number.to_bytes(_NUMBER_BYTES)
        self._count += 1
        return number


def _found(bucket: bytes, rest: bytes) -> int | None:
    place = bucket.find(rest)
    while place > 0 and place % _ENTRY_BYTES:  # an accident: the bytes of two entries side by side
        place = bucket.find(rest, place + 1)
    return int.from_bytes(bucket[place + 10 : place + _ENTRY_BYTES]) if place >= 0 else None
