"""
The metadata of an installed distribution, read without trust: regular files only, and no more of them than is sane.

Whatever lies on the path is asked by every listing, so a pipe must not stop it and a device must not fill the memory.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

__all__ = [
    "MetadataError",
    "decoded",
    "entry_points_in",
    "folder_name",
    "name_and_version",
    "place_of",
    "read_bytes",
    "read_text",
]

METADATA_BYTES = 10_000_000
"""A larger file of metadata is refused unread; a RECORD of 50,000 files is half of it."""

_LIBRARIES = ("importlib_metadata", "importlib.metadata")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""Source: https://packaging.python.org/en/latest/specifications/name-normalization/#name-format"""


class MetadataError(Exception):
    """A file of a distribution's metadata that cannot be used, in words."""


def read_bytes(distribution: Any, file: str) -> bytes | None:
    """
    Read a file of a distribution's metadata; None where there is none.

    Raises:
        MetadataError: it is no regular file, is too large, or cannot be read.
    """
    folder = getattr(distribution, "_path", None)
    if folder is None or type(distribution).read_text.__module__ not in _LIBRARIES:  # somebody else's, who alone knows
        text = distribution.read_text(file)
        return None if text is None else str(text).encode("utf-8", "surrogatepass")
    if isinstance(folder, Path):
        return _read_regular(f"{folder}/{file}", file)
    entry = folder.joinpath(file)  # in an archive
    if not entry.is_file():
        return None
    with entry.open("rb") as opened:
        data: bytes = opened.read(METADATA_BYTES + 1)
    _refuse_large(len(data), file)
    return data


def _read_regular(path: str, file: str) -> bytes | None:
    try:
        # Not to wait for whoever would write into a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MetadataError(f"its {file} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MetadataError(f"its {file} is no file")
        _refuse_large(status.st_size, file)
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
            data += more
    except OSError as error:
        raise MetadataError(f"its {file} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return data


def _refuse_large(size: int, file: str) -> None:
    if size > METADATA_BYTES:
        raise MetadataError(f"its {file} is larger than {METADATA_BYTES:,} bytes")


def read_text(distribution: Any, file: str) -> str | None:
    """
    Read a file of a distribution's metadata as text; None where there is none.

    Raises:
        MetadataError: it cannot be read, or is not UTF-8.
    """
    data = read_bytes(distribution, file)
    return None if data is None else decoded(data, file)


def decoded(data: bytes, file: str) -> str:
    """
    Return what a file of a distribution's metadata holds as text.

    Raises:
        MetadataError: it is not UTF-8, or begins with a byte order mark, after which the library reads nothing.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise MetadataError(f"its {file} begins with a byte order mark")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MetadataError(f"its {file} is not UTF-8 at byte {error.start:,}") from None


def name_and_version(distribution: Any) -> tuple[str, str]:
    """
    Read two fields of the metadata's head; parsing all of it would load the email package, a tenth of `gym list`.

    As for installers, a line ends where a line feed is and nowhere else, and of two fields of one name the first
    counts: a text inside of another field must not pass for a name.

    Raises:
        MetadataError: there are no metadata, they cannot be read, or they hold no name.
    """
    file = "METADATA"
    text = read_text(distribution, file)
    if not text:
        file = "PKG-INFO"
        text = read_text(distribution, file)
    if not text:
        raise MetadataError("it has no METADATA")
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip("\r"):
            break
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.lower(), value.strip())
    name = fields.get("name")
    if not name:
        raise MetadataError(f"its {file} says no name")
    if not _NAME.fullmatch(name):
        raise MetadataError(f"its {file} says {name!r}, which is no name of a distribution")
    return name, fields.get("version") or "unknown"


def entry_points_in(text: str) -> list[Any]:
    """Parse the text of an entry_points.txt as the library does."""
    import importlib_metadata

    class Text(importlib_metadata.Distribution):
        """A distribution that has nothing but this text."""

        def read_text(self, filename: Any) -> str | None:
            return text if filename == "entry_points.txt" else None

        def locate_file(self, path: Any) -> Any:
            return path

    return list(Text().entry_points)


def place_of(distribution: Any) -> str:
    """Return where a distribution's metadata lie; of somebody else's kind, what they call it."""
    return str(getattr(distribution, "_path", distribution))


def folder_name(distribution: Any) -> str:
    """Return a name for a distribution that says none itself: that of its folder, without the version."""
    stem = place_of(distribution).rstrip("/").rpartition("/")[2].removesuffix(".dist-info").removesuffix(".egg-info")
    return re.split(r"-(?=[0-9])", stem, maxsplit=1)[0].replace("_", "-") or "unknown"
