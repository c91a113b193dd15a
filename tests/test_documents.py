"""
Strict YAML and strict JSON: what is refused, with its line, and what comes back as it went in.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore.documents import DocumentError, decode_exactly, decode_json, encode_json, parse_yaml, write_yaml

# Words that some YAML reader takes for something other than a text.
# fmt: off
TRAPS = st.sampled_from([
    "no", "on", "yes", "off", "y", "n", "true", "True", "null", "~", "NULL", "010", "0o17", "0x1F", "1_000", "12:30",
    "12:30:45", "1e3", ".5", "+.5", "-.5", "5.", "+1", "-0", "08", "0_", ".inf", "-.inf", ".nan", "2020-01-01",
    "2020-01-01T00:00:00Z", "=", "<<", "-", "?", ":", "*", "&", "!", "|", ">", "%", "@", "`", "#", "a:", "a:b", "{}",
    "[]", "'x", '"x',
])
# fmt: on
BREAKS = st.text("\x85\u2028\u2029\ufeff\n\r\t \x00'\"#:a\\", max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | TRAPS | BREAKS | st.just("")
NUMBERS = st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


# -- YAML --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2\n", 3, "the key 'b' stands twice"),
        ("{a: 1, 'a': 2}", 1, "the key 'a' stands twice"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a:\n  <<: *x\n", 2, "aliases"),
        ("a: !!python/object/apply:os.system [true]\n", 1, "tags are not used here"),
        ("a: 1\nb: !!set {x}\n", 2, "tags are not used here"),
        ("a: !!str 123\n", 1, "tags are not used here"),
        ("!!binary a: 1\n", 1, "tags are not used here"),
        ("a: ! b\n", 1, "tags are not used here"),
        ("a: 010\n", 1, "write 10 for the number, or '010' in quotes for the text"),
        ("a: 1\nb: -0_7\n", 2, "write -7 for the number, or '-0_7' in quotes"),
        ("a: 00\n", 1, "write 0 for the number"),
        ("a: .nan\n", 1, "not a finite number"),
        ("a: -.Inf\n", 1, "not a finite number"),
        ("a: 1e999\n", 1, "too large"),
        ("a: 1\nb: " + "9" * 4001, 2, "4,000 digits"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: [1, 2\n", 2, "not YAML"),
        ("a: 1\n? [b, c]\n: 2\n", 2, "a key must be a word"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("b: 1\na: \x07\n", 2, "not YAML"),
    ],
)
def test_yaml_that_two_readers_could_read_differently_is_refused(text: str, line: int | None, said: str) -> None:
    """
    Duplicate keys, aliases, tags and numbers of doubtful meaning are mistakes, each with its line.
    """
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)

    assert said in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30", "12:30"),
        ("1:00:00", "1:00:00"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("<<", "<<"),
        ("=", "="),
        ("'010'", "010"),
        ('"true"', "true"),
        ("|\n  5\n", "5\n"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("[]", []),
        ("{1: a, null: b}", {"1": "a", "null": "b"}),
        ("a: {b: [1, {c: d}]}", {"a": {"b": [1, {"c": "d"}]}}),
    ],
)
def test_yaml_means_what_the_core_schema_of_version_1_2_says(text: str, value: Any) -> None:
    """
    `no`, `on`, `12:30` and dates are words; quoted values are texts; keys are always texts.
    """
    found = parse_yaml(text).value

    assert found == value
    assert type(found) is type(value)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    """
    A file saved with a byte order mark reads like one without.
    """
    assert parse_yaml(b"\xef\xbb\xbfa: 1").value == {"a": 1}


@pytest.mark.parametrize("data", [b"a: \xff", "a: ä".encode("latin-1"), "a: 1".encode("utf-16")])
def test_bytes_that_are_not_utf8_are_refused(data: bytes) -> None:
    """
    No other encoding is guessed.
    """
    with pytest.raises(DocumentError, match="not UTF-8"):
        parse_yaml(data)


def test_a_text_with_half_a_character_is_refused() -> None:
    """
    What the shell handed over as undecodable bytes is a mistake, not a crash.
    """
    with pytest.raises(DocumentError, match="not UTF-8"):
        parse_yaml("a: \udcff")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 60 + "1" + "}" * 60, "- " * 10_000 + "1"])
def test_nesting_without_end_is_refused(text: str) -> None:
    """
    A document deeper than the limit is refused before anything recurses into it.
    """
    with pytest.raises(DocumentError, match=r"levels deep|not YAML"):
        parse_yaml(text)


def test_a_document_over_a_megabyte_is_refused() -> None:
    """
    Nobody writes a plan that long, and its parser would take minutes.
    """
    with pytest.raises(DocumentError, match="larger than"):
        parse_yaml(b"a: " + b"x" * 1_000_000)


def test_each_key_knows_its_line() -> None:
    """
    A key path gives its own line; one that is not there, that of the nearest key around it.
    """
    document = parse_yaml("a:\n  b: 1\n  c:\n    - x\n    - y: 2\n")

    assert document.line(("a", "c")) == 3
    assert document.line(("a", "c", 1, "y")) == 5
    assert document.line(("a", "b", "nothing", "here")) == 2
    assert document.line(("nowhere",)) == 1


@given(st.text() | st.binary())
def test_reading_yaml_raises_nothing_but_its_own_error(text: str | bytes) -> None:
    """
    Whatever the text is, it is a value or a `DocumentError`.
    """
    with suppress(DocumentError):
        parse_yaml(text)


@settings(max_examples=300)
@given(PLAIN)
def test_written_yaml_reads_back_equal(value: Any) -> None:
    """
    Every plain value survives, texts that look like numbers, booleans, nulls and dates included.
    """
    found = parse_yaml(write_yaml(value)).value

    assert found == value
    assert repr(found) == repr(value)


def test_written_yaml_keeps_the_order_of_keys_and_uses_no_aliases() -> None:
    """
    A plan is written as its author ordered it, and a value used twice is written twice.
    """
    shared = {"z": 1, "a": [2]}

    assert write_yaml({"b": shared, "a": shared}) == "b:\n  z: 1\n  a:\n  - 2\na:\n  z: 1\n  a:\n  - 2\n"


# -- JSON --------------------------------------------------------------------------------------------------------------


class _Silent:
    """An object that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": "x\ud800y"}, b'{"a":"x?y"}'),
        ({"\udc00": 1}, b'{"?":1}'),
        (2**70, str(2**70).encode()),
        ([math.nan, math.inf, -math.inf], b"[null,null,null]"),
        ([2**70, math.nan], str([2**70]).encode()[:-1] + b",null]"),
        ({"a": object}, b'{"a":"<class \'object\'>"}'),
        ({(1, 2): 3}, b'{"(1, 2)":3}'),
        ({1: "a", None: "b"}, b'{"1":"a","null":"b"}'),
        (b"bytes", b"\"b'bytes'\""),
        ({"a": (1, 2)}, b'{"a":[1,2]}'),
    ],
    ids=repr,
)
def test_odd_values_are_written_as_documented(value: Any, written: bytes) -> None:
    """
    Surrogates become `?`, big integers keep their digits, other objects become text, numbers that are none null.
    """
    assert encode_json(value) == written


@pytest.mark.parametrize(
    "value",
    [
        _nested(300),
        _nested(5_000),
        _nested(200_000),
        _circular(),
        {"a": _Silent()},
        {_Silent(): 1},
        10**5_000,
        {10**5_000: 1},
        [2**70, _nested(900), "\ud800"],
    ],
    ids=["300 deep", "5,000 deep", "200,000 deep", "circular", "silent", "silent key", "huge", "huge key", "mixed"],
)
def test_writing_json_never_raises(value: Any) -> None:
    """
    What a plugin or a model produced is written somehow, and is JSON.
    """
    json.loads(encode_json(value))


@given(st.datetimes() | st.dates() | st.times())
def test_a_time_is_written_the_same_whatever_else_is(value: Any) -> None:
    """
    A price that only the slower writer knows changes no format of what stands beside it.
    """
    alone, beside = encode_json({"when": value}), encode_json({"when": value, "price": Decimal("1.50")})

    assert json.loads(alone)["when"] == json.loads(beside)["when"]


@given(
    st.recursive(
        st.integers(-(2**80), 2**80) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_read_to_be_written_again_keeps_every_digit(value: Any) -> None:
    """
    Integers beyond 64 bits too, wherever they stand.
    """
    text = json.dumps(value).encode()

    assert json.loads(encode_json(decode_exactly(text))) == value


@given(JSON)
def test_json_reads_back_equal(value: Any) -> None:
    """
    Every JSON value within 64 bits survives, digit for digit.
    """
    assert decode_json(encode_json(value)) == value


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(st.characters()) | st.binary() | st.complex_numbers(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner) | st.tuples(inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_written_is_json(value: Any) -> None:
    """
    The result is strict JSON: no NaN, and valid UTF-8.
    """

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads(encode_json(value).decode("utf-8"), parse_constant=refuse)


def test_every_truncation_of_a_line_is_refused() -> None:
    """
    Half a line is never taken for a whole one, wherever it was cut.
    """
    line = encode_json({"a": [1, -2.5e3, True, None], "text": 'ä "quoted" \\ 日本', "inner": {"b": {}}})
    accepted = []
    for end in range(len(line)):
        try:
            accepted.append(decode_json(line[:end]))
        except DocumentError:
            continue

    assert accepted == []


@pytest.mark.parametrize(
    "data", [b"NaN", b"[Infinity]", b'"\xff"', b'"\\ud800"', b"{'a': 1}", b"[1,]", b"1 2", b"", b"[" * 100_000, b"01"]
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    """
    No dialect is read, and nesting without end is no crash.
    """
    with pytest.raises(DocumentError, match="not JSON"):
        decode_json(data)
