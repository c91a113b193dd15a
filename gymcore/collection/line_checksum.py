"""
The checksum that closes a line: `,"crc":"8 hex digits"}`, over the bytes before it; the line stays plain JSON.
"""

from __future__ import annotations

import zlib

__all__ = ["is_whole", "with_checksum"]

_LENGTH = len(b',"crc":"00000000"}')


def with_checksum(line: bytes) -> bytes:
    """Close a JSON object with the CRC-32 of its bytes as its last member."""
    head = memoryview(line)[:-1]
    return b"".join((head, b',"crc":"%08x"}' % zlib.crc32(head)))


def is_whole(line: bytes) -> bool:
    """Whether a line, without its line break, is exactly what was written."""
    head, tail = line[:-_LENGTH], line[-_LENGTH:]
    return len(line) > _LENGTH and tail == b',"crc":"%08x"}' % zlib.crc32(head)
