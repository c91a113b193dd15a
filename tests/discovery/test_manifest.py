"""
The manifest: what an author says of a plugin, and every mistake in it at once.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.discovery.manifest import Manifest, ManifestError, read_manifest


def test_a_manifest_says_what_a_plugin_is() -> None:
    """
    Splits may be one file or several, defaults are plain values, and keys with `x-` are the author's own.
    """
    text = b"""
gym_api: 1
description: It works.
agent: simple_agent
isolation: process
splits:
  example: data/example.jsonl
  train: [a.jsonl, b.jsonl]
config: {level: 3}
reward_range: [-1, 1.5]
x-reviewer: somebody
"""

    assert read_manifest(text, "here") == Manifest(
        gym_api=1,
        description="It works.",
        agent="simple_agent",
        isolation="process",
        splits={"example": ("data/example.jsonl",), "train": ("a.jsonl", "b.jsonl")},
        config={"level": 3},
        reward_range=(-1.0, 1.5),
    )


def test_keys_without_a_value_are_as_if_absent() -> None:
    """
    An author who left a key empty has said nothing.
    """
    text = b"gym_api: 1\ndescription:\nagent:\nsplits:\nconfig:\n"

    assert read_manifest(text, "here") == Manifest(gym_api=1)


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        (b"", "here", "a manifest is a mapping"),
        (b"gym_api: 1\na: [\n", "here:3", "not YAML"),
        (b"gym_api: \xff", "here", "not UTF-8"),
        (b"gym_api: 1\ngym_api: 2\n", "here:2", "stands twice"),
        (b"description: x\n", "here:1", "`gym_api` must say"),
        (b"gym_api: '1'\n", "here:1", "`gym_api` must say"),
        (b"gym_api: true\n", "here:1", "`gym_api` must say"),
        (b"gym_api: 1.0\n", "here:1", "`gym_api` must say"),
        (b"gym_api: 1\nreward_range: 1\n", "here:2", "`reward_range` must be the lowest and the highest reward"),
        (b"gym_api: 1\nreward_range: [1, 1]\n", "here:2", "`reward_range` must be"),
        (b"gym_api: 1\nreward_range: [0, true]\n", "here:2", "`reward_range` must be"),
        (b"gym_api: 1\nreward_range: [0, 1, 2]\n", "here:2", "`reward_range` must be"),
        (b"gym_api: 1\nagnet: x\n", "here:2", "unknown key 'agnet'; did you mean 'agent'?"),
        (b"gym_api: 1\nzzz: x\n", "here:2", "unknown key 'zzz'"),
        (b"gym_api: 1\nagent: 5\n", "here:2", "`agent` must be a text"),
        (b"gym_api: 1\nisolation: prison\n", "here:2", "`isolation` must be `none` or `process`"),
        (b"gym_api: 1\nconfig: [a]\n", "here:2", "`config` must be a mapping"),
        (b"gym_api: 1\nsplits: a.jsonl\n", "here:2", "`splits` must map"),
        (b"gym_api: 1\nsplits:\n  a: []\n", "here:3", "'a' must be a path"),
        (b"gym_api: 1\nsplits:\n  a: {b: c}\n", "here:3", "'a' must be a path"),
        (b"gym_api: 1\nsplits:\n  a: [x, 5]\n", "here:3", "'a' must be a path"),
        (b"gym_api: 1\nsplits:\n  a: ../up.jsonl\n", "here:3", "must stay inside"),
        (b"gym_api: 1\nsplits:\n  a: x/../../up.jsonl\n", "here:3", "must stay inside"),
        (b"gym_api: 1\nsplits:\n  a: /etc/passwd\n", "here:3", "must stay inside"),
        (b"gym_api: 1\nsplits:\n  a: 'b\\c'\n", "here:3", "must stay inside"),
        (b"gym_api: 1\nsplits:\n  a: ''\n", "here:3", "must stay inside"),
        (b"gym_api: 1\nsplits:\n  a: .\n", "here:3", "must stay inside"),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: bytes, where: str, said: str) -> None:
    """
    Every mistake names the file, and the line where there is one.
    """
    with pytest.raises(ManifestError) as caught:
        read_manifest(text, "here")

    assert [problem.where for problem in caught.value.problems] == [where]
    assert said in caught.value.problems[0].message


def test_all_mistakes_of_a_manifest_are_reported_together() -> None:
    """
    An author mends them in one go.
    """
    with pytest.raises(ManifestError) as caught:
        read_manifest(b"gym_api: one\ndescripton: x\nconfig: []\nsplits: {a: 5, b: /c}\nagent: 7\n", "here")

    assert len(caught.value.problems) == 6


@given(st.binary() | st.text().map(str.encode))
def test_reading_a_manifest_raises_nothing_but_its_own_error(data: bytes) -> None:
    """
    Whatever lies in the file, listing goes on.
    """
    with pytest.raises(ManifestError):
        read_manifest(data, "here")
