"""
Rows that somebody else made badly, or on purpose: each is named with its place, and none is a crash.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition
from gymcore.composition.rows import reader as rows_module
from gymcore.composition.rows.reader import MAX_LINE_BYTES, RowReader, RowSource, numbered_lines
from gymcore.composition.rows.rejects import RAW_BYTES, Rejects
from gymcore.datasets.checking import check_data
from gymcore.datasets.describing import describe_data
from gymcore.discovery import Catalog
from gymcore.errors import DataError

Compose = Callable[..., Composition]
Write = Callable[..., str]

GOOD = b'{"answer":"it","responses_create_params":{"input":"Say it."}}'


def _with(members: bytes) -> bytes:
    return GOOD[:-1] + b"," + members + b"}"


BAD = [
    (b'{"a":' * 3000, "depth limit exceeded"),
    (_with(b'"x":' + b"[" * 500 + b"]" * 500), "nested too deeply"),
    (_with(b'"agent_ref":{"name":"echo_simple_agent","x":' + b"[" * 500 + b"]" * 500 + b"}"), "nested too deeply"),
    (_with(b'"environment":' + b"[" * 1015 + b"]" * 1015), "nested too deeply"),
    (b"[" * 1015 + b"]" * 1015, "a row is a JSON object, not [[[[...]]]]"),
    (b'{"messages":[{"role":' + b"[" * 990 + b"]" * 990 + b',"content":"x"}]}', "nested too deeply"),
    (b'{"messages":[{"role":"user","content":' + b"[" * 990 + b"]" * 990 + b"}]}", "nested too deeply"),
    (
        b'{"responses_create_params":{"input":"x","tools":[{"type":"function","name":"repeat","parameters":'
        + b'{"x":' * 980
        + b"1"
        + b"}" * 981
        + b"]}}",
        "nested too deeply",
    ),
    (_with(b'"x":NaN'), "NaN is no JSON"),
    (_with(b'"x":[-Infinity]'), "-Infinity is no JSON"),
    (_with(b'"x":1e999'), "not JSON"),
    (_with(b'"x":1,"x":2'), "the key 'x' stands twice"),
    (_with(b'"x" : 1, "x"\t: 2'), "the key 'x' stands twice"),
    (_with(b'"x":{"y":[{"z":1,"z":1}]}'), "the key 'z' stands twice"),
    (_with(b'"agent_ref":{"name":"echo_simple_agent"},"agent_ref":{"name":"echo_simple_agent"}'), "'agent_ref' stands"),
    (b'{"messages":[{"role":"user","content":"x"}],"answer":"it","answer":"at"}', "the key 'answer' stands twice"),
    (b'{"responses_create_params":null,"prompt":"x","answer":"it","answer":"at"}', "the key 'answer' stands twice"),
    (b'{"answer":"it","responses_create_params":{"input":"x"},"a":1,"a":2,"n":1e6}', "the key 'a' stands twice"),
    (_with(b'"\\u0061nswer":"it"'), "the key 'answer' stands twice"),
    (_with(b'"x":"\xff"'), "not UTF-8 at byte"),
    (_with(b'"x":"\xed\xa0\x80"'), "not UTF-8 at byte"),
    (_with(b'"x":"\\ud800"'), "not JSON"),
    (GOOD.decode().encode("utf-16"), "UTF-16"),
    (GOOD.decode().encode("utf-16-be"), "UTF-16"),
    (b"\0" + GOOD.decode().encode("utf-16-le"), "UTF-16"),
    (b"\x1f\x8b\x08\0" + GOOD, "the file is packed, as files named *.gz are"),
    (b"\x28\xb5\x2f\xfd\x04\0\x89\0" + GOOD, "the file is packed, as files named *.zst are"),
    (b"PAR1\x15\x04\x15" + GOOD, "the file is packed, as files named *.parquet are"),
    (b"\x8f\0\x1c" + bytes(range(128, 255)), "not UTF-8 at byte 1"),
    (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    (_with(b'"x":123456789012345678901234567890'), "more than 64 bits"),
    (_with(b'"x":-9223372036854775809'), "more than 64 bits"),
    (_with(b'"x":' + b"9" * 6000), "not JSON"),
    (b"\0" * 100, "not JSON"),
    (GOOD + GOOD, "not JSON"),
    (GOOD + b"\r" + GOOD, "end with CR alone"),
    (b"[]", "a row is a JSON object"),
    (b"null", "a row is a JSON object"),
]

FINE = [
    GOOD,
    b'{"answer":"it" , "responses_create_params" :\t{"input":"Say: it.", "metadata": {"a:b": ": :"}}}',
    '{"answer":"a\u2028b\u2029c\x85d","responses_create_params":{"input":"Say it."}}'.encode(),
    _with(b'"x":18446744073709551615,"y":-9223372036854775808,"z":1e300,"w":1e22'),
    _with(b'"x":"\\ud83d\\ude00","y":"\\u003a\\u0022:"'),
    _with(b'"x":{"x":{"x":1}},"y":[{"k":1},{"k":1}]'),
    _with(b'"x":' + b"[" * 100 + b"]" * 100),
]


def _composed(compose: Compose, path: str, **check: Any) -> Composition:
    return compose({"environments": {"echo": {"data": path}}, "check": check})


@pytest.mark.parametrize(("line", "said"), BAD, ids=[said for _, said in BAD])
def test_a_hostile_line_is_refused_by_name(composed: Compose, write_rows: Write, line: bytes, said: str) -> None:
    """
    The message has the file, the line and the reason, and is short.
    """
    path = write_rows(GOOD, line)

    with pytest.raises(DataError) as caught:
        _composed(composed, path)

    (problem,) = caught.value.problems
    assert problem.where == f"{path}:2"
    assert said in " ".join([problem.message, *problem.hints])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("check", [{}, {"skip_invalid": True}])
def test_a_prompt_of_the_plan_hides_nothing_that_reading_loses(
    composed: Compose, write_rows: Write, check: dict[str, Any]
) -> None:
    """
    A row that is written anew is held against what its author wrote.
    """
    lines = [_with(b'"x":1,"x":2'), _with(b'"x":123456789012345678901234567890'), GOOD]
    plan = {"environments": {"echo": {"data": write_rows(*lines), "prompt": {"system": "Be brief."}}}, "check": check}

    if check:
        composition = composed(plan)
        assert len(composition.dataset) == 1
        assert composition.rejects is not None
        assert composition.rejects.count == 2
        return
    with pytest.raises(DataError) as caught:
        composed(plan)
    assert [problem.message[:10] for problem in caught.value.problems] == ["the key 'x", "the intege"]


@pytest.mark.parametrize("line", FINE)
def test_an_odd_line_that_loses_nothing_is_kept_byte_for_byte(
    composed: Compose, write_rows: Write, line: bytes
) -> None:
    """
    Colons in texts, separators of Unicode, and numbers that fit are no reason to refuse a row.
    """
    (row,) = _composed(composed, write_rows(line)).dataset

    assert row.data.startswith(line.rstrip(b"}").rstrip())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \n\t\r\n"])
def test_line_ends_and_blank_lines_change_no_row(composed: Compose, write_rows: Write, end: bytes) -> None:
    """
    CRLF, blank lines, a byte order mark and a missing last line break are how editors differ.
    """
    plain = _composed(composed, write_rows(GOOD, GOOD, name="plain"))
    path = write_rows(b"\xef\xbb\xbf" + GOOD, GOOD, end=end, name="odd")
    Path(path).write_bytes(Path(path).read_bytes().rstrip())

    odd = _composed(composed, path)

    assert [row.data for row in odd.dataset] == [row.data for row in plain.dataset]


def test_a_line_without_end_is_refused_and_never_held(tmp_path: Path) -> None:
    """
    Of a line beyond the bound no more is read than shows that it is too long; the next line is read again.
    """
    path = tmp_path / "long.jsonl"
    with path.open("wb") as out:
        out.seek(3 * MAX_LINE_BYTES)
        out.write(b"\n" + GOOD + b"\n")
    rejects = Rejects()
    reader, source = RowReader(rejects), RowSource("long")

    tracemalloc.start()
    with path.open("rb") as file:
        rows = [reader.parse(line, f"long:{number}") for number, line in numbered_lines(file, source)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert rows[0] is None
    assert rows[1] is not None
    assert "longer than 64 MB" in reader.problems[0].message
    assert (source.rows, [problem.where for problem in reader.problems]) == (2, ["long:1"])
    assert peak < 3 * MAX_LINE_BYTES
    rejects.write(tmp_path / "rejects.jsonl")
    assert json.loads((tmp_path / "rejects.jsonl").read_bytes())["bytes"] == 3 * MAX_LINE_BYTES


def test_invalid_rows_can_be_left_out(composed: Compose, write_rows: Write, tmp_path: Path) -> None:
    """
    What is good is kept in order, and every bad row is told of with its place, its reason and its beginning.
    """
    long = _with(b'"x":"' + b"y" * 100_000)
    lines = [line for pair in zip([line for line, _ in BAD], [GOOD] * len(BAD), strict=True) for line in pair]
    path = write_rows(*lines, long)

    composition = _composed(composed, path, skip_invalid=True)

    assert len(composition.dataset) == len(BAD)
    assert composition.rejects is not None
    assert composition.rejects.count == len(BAD) + 1
    composition.rejects.write(tmp_path / "rejects.jsonl")
    told = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines()]
    assert [item["line"] for item in told] == [*range(1, 2 * len(BAD), 2), 2 * len(BAD) + 1]
    assert {item["file"] for item in told} == {path}
    assert all(
        said in " ".join([item["reason"], *item.get("hints", [])]) for item, (_, said) in zip(told, BAD, strict=False)
    )
    assert (told[-1]["bytes"], len(told[-1]["row"])) == (len(long), RAW_BYTES)


def test_the_whole_corpus_is_checked_and_described(catalog: Catalog, write_rows: Write) -> None:
    """
    What compose refuses by name, `gym data check` counts and `gym data stats` survives.
    """
    path = Path(write_rows(*[line for line, _ in BAD], *FINE))

    checked = check_data([path], catalog, environment="echo")
    described = describe_data([path], catalog).to_dict()

    assert (checked.rows, checked.bad) == (len(BAD) + len(FINE), len(BAD))
    assert sum(checked.reasons.values()) == len(BAD)
    assert described["bad"] + described["total"]["rows"] == len(BAD) + len(FINE)
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_an_environment_whose_rows_are_all_invalid_is_refused(composed: Compose, write_rows: Write) -> None:
    """
    Leaving rows out never leaves an environment out.
    """
    with pytest.raises(DataError, match="2 rows are wrong, of 2 read"):
        _composed(composed, write_rows(b"{", b"{"), skip_invalid=True)


KEYS = st.text(max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(KEYS.map(lambda key: f"own {key}"), VALUES, max_size=4), st.booleans(), st.booleans())
def test_no_row_that_json_can_hold_is_taken_for_one_with_twins(own: dict[str, Any], ascii: bool, compact: bool) -> None:
    """
    However an encoder writes a row, it is read as it is.
    """
    row = {**own, "responses_create_params": {"input": "x"}, "agent_ref": {"name": "a:b"}}
    separators = (",", ":") if compact else (", ", " : ")
    line = json.dumps(row, ensure_ascii=ascii, separators=separators).encode("utf-8", "surrogatepass")
    reader = RowReader()

    parsed = reader.parse(line, "here:1")
    if parsed is not None:
        reader.unrouted(parsed, "owner", "here:1")

    assert [problem.message for problem in reader.problems if "stands twice" in problem.message] == []


@given(st.dictionaries(KEYS.map(lambda key: f"own {key}"), VALUES, min_size=1, max_size=4), st.booleans(), st.data())
def test_a_key_that_stands_twice_is_always_found(own: dict[str, Any], compact: bool, data: st.DataObject) -> None:
    """
    Whatever else is in the row, and however it is spaced.
    """
    twin = data.draw(st.sampled_from(sorted(own)))
    separators = (",", ":") if compact else (", ", ": ")
    line = json.dumps({**own, "responses_create_params": {"input": "x"}}, separators=separators).encode()
    line = line[:-1] + b", " + json.dumps(twin).encode() + b":0}"
    reader = RowReader()

    parsed = reader.parse(line, "here:1")

    assert parsed is None or not reader.unrouted(parsed, "owner", "here:1")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_row_or_a_mistake(line: bytes) -> None:
    """
    Nothing but a count comes of bytes that are no row.
    """
    reader = RowReader()

    for number, text in numbered_lines([line], RowSource("here")):
        row = reader.parse(text, f"here:{number}")
        assert (row is None) == (reader.bad == 1)


def test_reasons_are_counted_by_kind() -> None:
    """
    A million rows with a mistake each are a few lines of counts, however many different values they hold.
    """
    reader = RowReader()
    for number in range(1000):
        reader.parse(b"[%d]" % number, f"here:{number + 1}")
        reader.parse(b'{"responses_create_params": {}, "reward": 1}', f"here:{number + 1}")
    for number in range(1000):
        reader.reject("here:1", f"{'x' * number} is wrong")

    assert reader.bad == 3000
    assert sum(reader.reasons.values()) == 3000
    assert len(reader.reasons) <= rows_module.REMEMBERED_REASONS + 1
    assert reader.reasons["a row is a JSON object, not [...]"] == 1000
