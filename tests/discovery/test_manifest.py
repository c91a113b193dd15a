"""
The manifest: what an author says of a plugin, and every mistake in it at once.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.discovery.manifest import Manifest, ManifestError, read_manifest
from gymcore.plan import HubData, UrlData


def test_a_manifest_says_what_a_plugin_is() -> None:
    """
    Splits may be one file or several, defaults are plain values, and keys with `x-` are the author's own.
    """
    text = b"""
gym_api: 1
description: It works.
agent: simple_agent
argument: level
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
        argument="level",
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


def test_a_split_may_be_pinned_elsewhere() -> None:
    """
    A dataset of the hub at a commit, or a file at an address with its digest, alone or among files.
    """
    text = b"""
gym_api: 1
splits:
  train: {huggingface: owner/name, revision: %s, split: dev}
  test: [a.jsonl, {url: https://x/y.jsonl, sha256: %s}]
prompt: {user: "{question}"}
""" % (b"b" * 40, b"a" * 64)

    manifest = read_manifest(text, "here")

    assert manifest.splits == {
        "train": (HubData(huggingface="owner/name", revision="b" * 40, split="dev"),),
        "test": ("a.jsonl", UrlData(url="https://x/y.jsonl", sha256="a" * 64)),
    }
    assert manifest.prompt == {"user": "{question}"}


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        (b"", "here", "a manifest is a mapping"),
        (b"gym_api: 1\na: [\n", "here:3", "not YAML"),
        (b"gym_api: 1\ndescription: \xff", "here:2", "not UTF-8 at byte 24"),
        (b"gym_api: 1\n\tagent: x\n", "here:2", "at column 1"),
        (b"gym_api: 010\n", "here:1", "010 is read differently by different YAML versions"),
        (b"gym_api: no\n", "here:1", "`gym_api` must say"),
        (b"a: &a [x]\nb: [*a, *a]\n", "here:2", "aliases (*name) are not used here"),
        (b"gym_api: 1\nconfig: " + b"[" * 60, "here:2", "more than 50 levels deep"),
        (b"gym_api: 1\nx-y: !!python/object:os.system {}\n", "here:2", "tags are not used here"),
        (b"\xff\xfeg\x00y\x00m\x00", "here:1", "not UTF-8 at byte 0"),
        (b"gym_api: 1\n#" + b"x" * 100_000, "here", "larger than 100,000 bytes"),
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
        (b"gym_api: 1\nargument: [url]\n", "here:2", "`argument` must be a text"),
        (b"gym_api: 1\nisolation: prison\n", "here:2", "`isolation` must be `none`, `process` or `venv`"),
        (b"gym_api: 1\nconfig: [a]\n", "here:2", "`config` must be a mapping"),
        (b"gym_api: 1\nsplits: a.jsonl\n", "here:2", "`splits` must map"),
        (b"gym_api: 1\nsplits:\n  a: []\n", "here:3", "'a' must be a path"),
        (b"gym_api: 1\nsplits:\n  a: {b: c}\n", "here:3", "'a' must be a path"),
        (b"gym_api: 1\nsplits:\n  a: [x, {b: c}]\n", "here:3", "or name `huggingface`, `url` or `from: plugin`"),
        (b"gym_api: 1\nsplits:\n  a: {url: https://x/y}\n", "here:3", "sha256: a digest of 64 hexadecimal digits"),
        (b"gym_api: 1\nsplits:\n  a: {url: 'x', sha256: %s}\n" % (b"a" * 64), "here:3", "an address looks like"),
        (b"gym_api: 1\nsplits:\n  a: {url: 'file:///x', sha256: %s}\n" % (b"a" * 64), "here:3", "a file here"),
        (b"gym_api: 1\nsplits:\n  a: {huggingface: a/b, revision: main}\n", "here:3", "revision: a revision must be"),
        (b"gym_api: 1\nprompt: x\n", "here:2", "`prompt` must be a mapping"),
        (b"gym_api: 1\nprompt: {user: 5}\n", "here:2", "`prompt` must be a mapping"),
        (b"gym_api: 1\nprompt: {asistant: x}\n", "here:2", "`prompt` must be a mapping"),
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


@pytest.mark.parametrize(
    "more", [b"newkey: x\n", b"splits: {a: {bucket: x}}\n", b"isolation: container\ndescription: [a]\n"]
)
def test_a_manifest_of_another_interface_version_is_not_judged_by_this_one(more: bytes) -> None:
    """
    What it may hold is not known here, so nothing of it is a mistake of its author's.
    """
    assert read_manifest(b"gym_api: 2\n" + more, "here") == Manifest(gym_api=2)


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
