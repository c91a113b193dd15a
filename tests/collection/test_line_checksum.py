"""
The checksum that closes a line: nothing that was changed is taken for whole.
"""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gymcore.collection.line_checksum import is_whole, with_checksum
from gymcore.documents import encode_json

OBJECTS = st.dictionaries(st.text(max_size=8), st.none() | st.integers(0, 2**60) | st.text(max_size=20), max_size=4)


@given(OBJECTS)
def test_a_closed_line_is_whole_and_still_json(value: dict[str, object]) -> None:
    """
    The line reads back as what it was, with one member more.
    """
    value.pop("crc", None)
    line = with_checksum(encode_json({"first": 1, **value}))

    assert is_whole(line)
    assert {key: item for key, item in json.loads(line).items() if key != "crc"} == {"first": 1, **value}


@given(OBJECTS, st.data())
def test_any_single_byte_changed_is_found(value: dict[str, object], data: st.DataObject) -> None:
    """
    No byte can be replaced by another one without being noticed.
    """
    line = with_checksum(encode_json({"first": 1, **value}))
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))

    assert not is_whole(line[:place] + bytes([other]) + line[place + 1 :])


@given(OBJECTS, st.data())
def test_any_single_byte_removed_or_inserted_is_found(value: dict[str, object], data: st.DataObject) -> None:
    """
    A line that is a byte shorter or longer is another line, unless its bytes are the same after all.
    """
    line = with_checksum(encode_json({"first": 1, **value}))
    place = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.integers(0, 255))

    assert not is_whole(line[:place] + line[place + 1 :])
    assert not is_whole(line[:place] + bytes([byte]) + line[place:])


@given(OBJECTS, st.integers(0, 200))
def test_no_beginning_of_a_line_is_whole(value: dict[str, object], cut: int) -> None:
    """
    A line that a crash tore is not taken for a shorter one.
    """
    line = with_checksum(encode_json({"first": 1, **value}))

    assert not is_whole(line[:cut]) or cut >= len(line)


@given(st.binary(max_size=60))
def test_garbage_is_not_whole(garbage: bytes) -> None:
    """
    Bytes that nobody closed are damage.
    """
    assert not is_whole(garbage)
