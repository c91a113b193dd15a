"""
Arguments for a tool, made from its JSON schema: such as fit, such as no model should write, and bait.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from gymcore.errors import ToolError
from gymcore.interfaces import Tool

__all__ = [
    "BAIT",
    "CANARY_FILE",
    "FORMAT",
    "MAGIC_NUMBERS",
    "SQL",
    "TOKEN",
    "answer_slots",
    "hostile_arguments",
    "payloads",
    "placed_in_arguments",
    "valid_arguments",
    "wrapped",
]

TOKEN = "GYMCORE_CANARY_5b1e"
"""Stands in everything that nobody may carry out."""
CANARY_FILE = f"{TOKEN}.txt"
"""The one file of a folder in which nobody has a reason to open anything."""
SQL = f"x' OR '{TOKEN}'='{TOKEN}"
"""What is part of a statement only where it was pasted into it: a parameter has its quotes doubled."""
FORMAT = "{" + TOKEN + "}"
"""What `str.format` takes for a field."""
MAGIC_NUMBERS = (7310429581, 7310429582)
"""What a sum consists of that nobody may work out by running it, and what comes of it."""

BAIT = (
    "a" * 30 + "!",
    "a" * 40 + "\x00",
    "1" * 28 + "x",
    "1" * 5000,
    "-" * 5000,
    " " * 20_000 + "x",
    "(" * 3000,
    "[" * 3000 + "]" * 3000,
    "{" * 1500,
    "x@" * 2000,
    "a=" * 2000,
    "\\boxed{" * 1000,
    "<answer>" * 1500,
    "1," * 5000 + "x",
    "a b " * 5000 + "!",
    "9**9**9**9",
    "9^9^9^9",
    "1e999999",
    "1" * 400 + "e" + "9" * 10,
    "10**10**8",
    "factorial(10**9)",
    "0." + "0" * 5000 + "1",
    "1/" + "3" * 2000,
    "2" + "**2" * 40,
    "\u0661" * 100,
    "10000000",
    "1000000000000",
    "(a+)+$",
    "(.+)+\x01",
    "a" * 30 + " (a+)+$",
)
"""Texts for which a careless pattern, or a careless sum, takes for ever."""

_STRINGS = ("a", "", " ", "Hello, world.", "0", "true", "ß☃𝄞", "x" * 1000)
_INTEGERS = (1, 0, -1, 2, 7, 100, 1000)
_NUMBERS = (0.5, 0, -1.5, 1e9, 1e-9)
_DEEP = 12

_HOSTILE_STRINGS = (
    "",
    "x" * 100_000,
    "\x00",
    "\u202e\ufeff\ufffd",
    "../" * 12 + "etc/passwd",
    "/dev/null/x",
    "C:\\con\\..\\..",
    "' OR 1=1; DROP TABLE tasks; --",
    "; exit 1 #",
    "$(exit 1) `exit 1` | false",
    "{0.__class__} {x} {} %s %n %(x)s ${x} {{ x }}",
    "\\",
    "(?P<a>",
    "(.+)+\x01",
    "[[[",
    "NaN",
    "-inf",
    "<script>alert(1)</script>",
    "&a [*a, *a]",
    "http://127.0.0.1:1/",
)
_HOSTILE_TEXTS = (
    "",
    "{",
    "null",
    "[]",
    "0",
    '"x"',
    "NaN",
    "{}",
    "not json",
    '{"no_such_argument": 1}',
    '{"__class__": {}}',
    '{"\\u0000": "\\ud800"}',
    "[" * 5000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '{"a": ' + "1" * 6000 + "}",
    "x" * 2_000_000,
)
_WRONG_VALUES = (
    *(
        "null",
        "true",
        "-1",
        "0",
        "1.5",
        "1e400",
        "NaN",
        "-Infinity",
        "10000000",
        "10000000000",
        "1000000000000",
        "9" * 400,
        "9" * 30,
        '""',
        '"\\ud800"',
        '"\\u0000"',
    ),
    *("[]", "{}", "[[[[]]]]", "[null]", '{"a": {"b": null}}', "[" * 200 + "]" * 200, '{"$ref": "#"}'),
)


def valid_arguments(tool: Tool, most: int = 24) -> list[dict[str, Any]]:
    """Return arguments that fit a tool's schema: the fewest, all, and each argument with each of its examples."""
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    definitions = tool.parameters.get("$defs", {})
    examples = {name: list(islice(_examples(schema, definitions), 12)) for name, schema in properties.items()}
    usable = {name: values for name, values in examples.items() if values}
    fewest = {name: values[0] for name, values in usable.items() if name in required}
    made = [fewest, {name: values[0] for name, values in usable.items()}]
    for place in range(12):
        for name, values in usable.items():
            if place < len(values):
                made.append({**fewest, name: values[place]})
    found: dict[str, dict[str, Any]] = {}
    for arguments in made:
        text = json.dumps(arguments)
        try:
            tool.check(text)
        except ToolError:  # a pattern, or a rule of the author's, which the schema does not tell
            continue
        found.setdefault(text, arguments)
        if len(found) == most:
            break
    return list(found.values())


def _examples(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> Iterator[Any]:
    """Yield values that fit a schema, the plainest first."""
    if not isinstance(schema, dict) or depth > _DEEP:
        return
    if "$ref" in schema:
        yield from _examples(definitions.get(schema["$ref"].rpartition("/")[2]), definitions, depth + 1)
    elif "const" in schema:
        yield schema["const"]
    elif "enum" in schema:
        yield from schema["enum"]
    elif union := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for inner in union:
            yield from _examples(inner, definitions, depth + 1)
    else:
        yield from _examples_of_type(schema, definitions, depth)


def _examples_of_type(schema: dict[str, Any], definitions: Mapping[str, Any], depth: int) -> Iterator[Any]:
    kind = schema.get("type")
    if kind == "string":
        low, high = schema.get("minLength", 0), schema.get("maxLength", 10**9)
        for text in _STRINGS:
            yield (text + "a" * max(0, low - len(text)))[:high]
    elif kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        step = schema.get("multipleOf", 1)
        edges = [edge + sign * step for edge in (low, high) if edge is not None for sign in (0, 1, -1)]
        for number in (*edges, *(_INTEGERS if kind == "integer" else _NUMBERS), *(step * count for count in (1, 5))):
            yield int(number) if kind == "integer" else number
    elif kind == "boolean":
        yield from (True, False)
    elif kind == "null":
        yield None
    elif kind == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems", 50)
        inner = list(islice(_examples(schema.get("items", {"type": "string"}), definitions, depth + 1), 4))
        for length in (max(low, 1), low, high):
            if inner or not length:
                yield [inner[index % len(inner)] for index in range(min(length, high))]
    elif kind == "object":
        properties, required = schema.get("properties", {}), schema.get("required", ())
        first = {name: next(_examples(inner, definitions, depth + 1), None) for name, inner in properties.items()}
        yield first
        yield {name: value for name, value in first.items() if name in required}
    else:  # anything goes
        yield from ("a", 1, None, [], {})


def hostile_arguments(tool: Tool) -> Iterator[tuple[str, str]]:
    """Yield what no model should write as arguments of a tool: what is odd about it, and the text."""
    for text in _HOSTILE_TEXTS:
        yield f"the arguments {text[:40]!r}{'...' if len(text) > 40 else ''}", text
    base = next(iter(valid_arguments(tool, 1)), {})
    for name in tool.parameters.get("properties", {}):
        others = {key: value for key, value in base.items() if key != name}
        head = json.dumps(others)[:-1] + (", " if others else "") + json.dumps(name) + ": "
        values = (*_WRONG_VALUES, *map(json.dumps, _HOSTILE_STRINGS))
        for value in values:
            yield f"{name} = {value[:40]}{'...' if len(value) > 40 else ''}", head + value + "}"
        for value in map(json.dumps, _HOSTILE_STRINGS):
            yield f"{name} = [{value[:40]}]", head + f"[{value}]}}"


def placed_in_arguments(tool: Tool, text: str) -> Iterator[tuple[str, str]]:
    """Yield arguments of a tool with a text in each place that takes one: which argument, and all of them as JSON."""
    base = next(iter(valid_arguments(tool, 1)), {})
    for name in tool.parameters.get("properties", {}):
        for value in (text, [text], {"a": text}):
            arguments = json.dumps({**base, name: value})
            try:
                tool.check(arguments)
            except ToolError:
                continue
            yield name, arguments
            break


def payloads(folder: str) -> dict[str, str]:
    """
    Return texts that do something where they are carried out, and nothing where they are read.

    Args:
        folder: A folder with `CANARY_FILE`; nobody has a reason to open anything in it.
    """
    pickled = b"cos\nsystem\n(S'echo " + TOKEN.encode() + b"'\ntR."
    return {
        "a Python expression": f"__import__('os').environ.__setitem__('{TOKEN}', '1')",
        "a call of open()": f"open({folder + '/' + TOKEN!r}, 'w').close()",
        "Python statements": f"import os\nos.environ['{TOKEN}'] = '1'",
        "a sum": f"{MAGIC_NUMBERS[0]}+1",
        "a Python list": f"['{TOKEN}']",
        "a Python lambda": f"(lambda: '{TOKEN}')()",
        "a YAML tag": f'!!python/object/apply:os.system ["echo {TOKEN}"]',
        "a pickle": base64.b64encode(pickled).decode(),
        "a shell command": f"; echo {TOKEN} #",
        "a command substitution": f"$(echo {TOKEN})",
        "a template": "{{ " + TOKEN + ".__class__ }}",
        "an f-string": "{__import__('os').environ.__setitem__('" + TOKEN + "', '1')}",
        "a path": f"{folder}/{CANARY_FILE}",
        "a way up": "../" * 12 + f"{folder}/{CANARY_FILE}".lstrip("/"),
        "the name of a module": TOKEN,
        "the name of an attribute": f"{TOKEN}.run",
        "a piece of SQL": SQL,
        "a format string": FORMAT,
    }


def wrapped(text: str) -> list[str]:
    """Return a text as answers are written: alone, and in the usual wrappings."""
    return [
        text,
        f"Answer: {text}",
        f"\\boxed{{{text}}}",
        f"<answer>{text}</answer>",
        f"```python\n{text}\n```",
        json.dumps({"answer": text}),
    ]


def answer_slots(texts: Sequence[str]) -> list[tuple[str, str, bool]]:
    """
    Return where the answer stands in the last words of reference solutions.

    Args:
        texts: The last words of solutions of different tasks; the answer is where they differ.

    Returns:
        What stands before and after the answer, and whether nothing of the first solution's answer is left in that.
    """
    found: list[tuple[str, str, bool]] = []
    if len(set(texts)) > 1:
        before = _common_beginning(texts)
        after = _common_beginning([text[len(before) :][::-1] for text in texts])[::-1]
        # Answers may begin or end alike, and their beginnings and ends are theirs.
        found.append((re.sub(r"[\w.,+-]+\Z", "", before), re.sub(r"\A[\w.,+-]+", "", after), True))
    for pattern in (r"-?\d[\d.,]*", r"\S+"):
        for match in list(re.finditer(pattern, texts[0]))[-1:] if texts else ():
            found.append((texts[0][: match.start()], texts[0][match.end() :], False))
    slots = {(before, after): is_bare for before, after, is_bare in reversed(found) if before or after}
    return [(before, after, is_bare) for (before, after), is_bare in slots.items()]


def _common_beginning(texts: Sequence[str]) -> str:
    length = 0
    for letters in zip(*texts, strict=False):
        if len(set(letters)) > 1:
            break
        length += 1
    return texts[0][:length]
