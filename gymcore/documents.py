"""
Strict YAML and strict JSON: text in, plain values out, and every mistake with its line.

Plans and manifests are YAML; rows, rollouts and locks are JSON.
What a key *means* is decided by whoever reads the value; this file only refuses text that two readers could
understand differently (duplicate keys, aliases, YAML 1.1's `010` and `12:30`), and never executes a tag.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import PurePath
from typing import Any

import yaml

__all__ = [
    "DocumentError",
    "YamlDocument",
    "decode_exactly",
    "decode_json",
    "encode_json",
    "parse_yaml",
    "write_yaml",
]

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 50

Path_ = tuple[str | int, ...]


class DocumentError(Exception):
    """
    Text that is not what it claims to be.

    Attributes:
        line: One-based line of the mistake, or None where the whole text is meant.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        self.message = message
        self.line = line
        super().__init__(message if line is None else f"line {line}: {message}")


@dataclass(frozen=True)
class YamlDocument:
    """A YAML text as a plain value, and the line on which each key of it stands."""

    value: Any  # whatever the text holds: mappings, lists, strings, numbers, booleans, None
    lines: dict[Path_, int] = field(default_factory=dict)

    def line(self, path: Path_) -> int | None:
        """Return the one-based line of a key path, or of the nearest enclosing key that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


# YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `no` and `on` are words, not booleans.
_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_yaml(text: str | bytes) -> YamlDocument:
    """
    Read one YAML document under YAML 1.2's core rules.

    Returns:
        The value, and the line of each key.

    Raises:
        DocumentError: the text is no YAML, is not UTF-8, has a duplicate key, an alias, a tag, a number that YAML
            versions read differently, or is over 1 MB or 50 levels deep.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise DocumentError(f"not UTF-8 at byte {error.start}", line) from None
    elif not text.isascii() and (found := _SURROGATE.search(text)):
        raise DocumentError(f"not UTF-8 at character {found.start()}")
    if len(text) > MAX_YAML_BYTES:
        raise DocumentError(f"larger than {MAX_YAML_BYTES:,} characters")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_events(text, loader)
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark is not None:
            raise DocumentError(f"not YAML: {what}, at column {mark.column + 1}", mark.line + 1) from None
        strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
        at = None if strange is None else text.count("\n", 0, strange.start()) + 1
        raise DocumentError(f"not YAML: {what}", at) from None
    lines: dict[Path_, int] = {}
    value = None if node is None else _construct(node, (), lines)
    return YamlDocument(value, lines)


def _refuse_events(text: str, loader: Any) -> None:
    """Refuse aliases, tags and depth before nodes are built: building recurses, and forgets which tags were typed."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=loader):
        line = event.start_mark.line + 1 if event.start_mark is not None else None
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError("aliases (*name) are not used here; write the value out", line)
        if getattr(event, "tag", None) is not None:
            raise DocumentError(f"tags are not used here: {event.tag}", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_YAML_DEPTH:
                raise DocumentError(f"more than {MAX_YAML_DEPTH} levels deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _construct(node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, line)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), lines) for index, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise DocumentError("a key must be a word", key_line)
        key = key_node.value
        if key in mapping:
            raise DocumentError(f"the key {key!r} stands twice", key_line)
        lines[(*path, key)] = key_line
        mapping[key] = _construct(value_node, (*path, key), lines)
    return mapping


def _scalar(node: yaml.ScalarNode, line: int) -> Any:
    text: str = node.value
    if node.style:  # quoted, or a block: a text, whatever it looks like
        return text
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _INT.match(text):
        if len(text) > 4000:
            raise DocumentError("a number of more than 4,000 digits", line)
        return int(text)
    if _HEX.match(text) or _OCTAL.match(text):
        return int(text, 0)
    if _LEADING_ZERO.match(text):
        digits = text.replace("_", "").lstrip("+-0") or "0"
        sign = "-" if text.startswith("-") and digits != "0" else ""
        told = f"write {sign}{digits:.40} for the number, or '{text:.40}' in quotes for the text"
        raise DocumentError(f"{text:.40} is read differently by different YAML versions; {told}", line)
    if _FLOAT.match(text):
        number = float(text)
        if not math.isfinite(number):
            raise DocumentError(f"{text} is too large for a number", line)
        return number
    if _NOT_FINITE.match(text):
        raise DocumentError(f"{text} is not a finite number", line)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes a document that `parse_yaml` and YAML 1.1 readers understand alike, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """Write Unicode's own line breaks as escapes, because a reader folds them as it folds a line feed."""
        style = '"' if any(character in data for character in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_path(self, data: PurePath) -> yaml.ScalarNode:
        """Write a path, which plans made in Python may hold, as its text."""
        return self.represent_text(str(data))


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(PurePath, _Dumper.represent_path)
# Texts that are numbers to `parse_yaml` and words to YAML 1.1, such as `1e3` and `0o17`, are quoted as well.
for _number in (_INT, _OCTAL, _FLOAT, _LEADING_ZERO):
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))


def write_yaml(value: Any) -> str:
    """Write a plain value as YAML that `parse_yaml` reads back equal; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def decode_json(data: bytes) -> Any:
    """
    Read one JSON text.

    Raises:
        DocumentError: it is not JSON (NaN, bad UTF-8 and half a text included), or too deep.
    """
    import orjson  # here, so that reading a manifest does not load it

    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error.msg} at character {error.pos + 1}", error.lineno) from None


def decode_exactly(data: bytes) -> Any:
    """
    Read one JSON text that is to be written again: an integer beyond 64 bits keeps all its digits.

    Raises:
        DocumentError: as for `decode_json`.
    """
    value = decode_json(data)
    if _LONG_NUMBER.search(data):
        import json

        with suppress(ValueError, RecursionError):  # what the fast reader has read is JSON, whatever the other one says
            return json.loads(data)
    return value


_LONG_NUMBER = re.compile(rb"\d{19}")


def encode_json(value: Any) -> bytes:
    """
    Write a value as compact JSON, whatever a plugin or a model put into it.

    A lone surrogate becomes `?`, an integer beyond 64 bits is written with all its digits, an object that JSON
    does not know is written as its `str`, as is what lies more than 200 levels deep, and a number that is not finite,
    or has more than 4,000 digits, becomes null.
    """
    import orjson

    try:
        return orjson.dumps(value, _time_as_text, orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        return _encode_anything(value)


def _time_as_text(value: Any) -> str:
    """Write a time as the standard library does: orjson 3.13.0 writes 00:00:00.010000 as 00:00:00.10000."""
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError


def _encode_anything(value: Any) -> bytes:
    import json

    import orjson

    try:
        # Keys of other types for all would cost a third more.
        return orjson.dumps(value, _time_as_text, orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        # orjson refuses surrogates, big integers and 254 levels; the standard library is slower and refuses less.
        text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > 200:
        return _text(value)[:200]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() < 13_000 else None
    if isinstance(value, dict):
        return {_text(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return value if value is None else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    try:
        return str(value)
    except Exception:  # whatever the `__str__` of a plugin's object does, or one level too many
        return f"<{type(value).__name__}>"
