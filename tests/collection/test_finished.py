"""
What is finished: told apart exactly, counted for each environment, and never changed by who only looks.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import reduce
from operator import add

from hypothesis import given
from hypothesis import strategies as st

from gymcore.collection import Finished
from gymcore.collection.finished import EnvironmentTally
from gymcore.records import RolloutKey

# Texts that a careless joining of the three parts would confuse.
PARTS = st.sampled_from(["", "0", "1", "a", "a0", "0a", "a\0", "\0a", "\0", "é", "\ud800", "a/b", "1\x000\x00"])
KEYS = st.tuples(st.sampled_from(["a", "a0", "b", "b.1"]), PARTS, st.integers(0, 12))


@given(st.lists(st.tuples(KEYS, st.one_of(st.none(), st.floats(-1, 1)))))
def test_it_says_what_a_dictionary_would_say(added: list[tuple[RolloutKey, float | None]]) -> None:
    """
    Every key is there once, the first reward counts, and no key is taken for another.
    """
    finished = Finished()
    expected: dict[RolloutKey, float | None] = {}
    for key, reward in added:
        assert (key in finished) == (key in expected)
        assert finished.add(key, reward) == (key not in expected)
        expected.setdefault(key, reward)

    assert len(finished) == len(expected)
    for name in {key[0] for key in expected}:
        rewards = [reward or 0.0 for key, reward in expected.items() if key[0] == name]
        # Not `sum`, which rounds otherwise from Python 3.12 on.
        assert finished.environments[name] == EnvironmentTally(len(rewards), reduce(add, rewards, 0.0))


@given(st.lists(KEYS), st.dictionaries(st.sampled_from(["a", "a0", "b"]), st.integers(0, 12)))
def test_repeats_that_are_not_asked_for_are_known_and_not_counted(
    added: list[RolloutKey], repeats: dict[str, int]
) -> None:
    """
    A plan may ask for fewer than there are: nobody plays them again, and nobody counts them as done of the plan.
    """
    finished = Finished(repeats)
    for key in added:
        finished.add(key, 1.0)

    asked = [key for key in set(added) if key[2] < repeats.get(key[0], 13)]
    for counted in (finished, finished.copy()):
        assert len(counted) == len(set(added))
        assert all(key in counted for key in added)
        tallies = {name: tally.finished for name, tally in counted.environments.items()}
        assert tallies == dict(Counter(key[0] for key in asked))


def test_a_copy_stays_as_it_is() -> None:
    """
    A collection says what was finished when it was made.
    """
    finished = Finished()
    finished.add(("a", "1", 0), 0.5)
    copy = finished.copy()
    finished.add(("a", "2", 0), 0.25)
    copy.add(("b", "3", 0), 1.0)

    assert (len(finished), len(copy)) == (2, 2)
    assert ("a", "2", 0) not in copy
    assert ("b", "3", 0) not in finished
    assert finished.environments == {"a": EnvironmentTally(2, 0.75)}
    assert copy.environments == {"a": EnvironmentTally(1, 0.5), "b": EnvironmentTally(1, 1.0)}


def test_what_is_no_key_is_not_finished() -> None:
    """
    Whoever asks for something else gets an answer and no error.
    """
    finished = Finished()
    finished.add(("a", "1", 0), 0.5)

    assert [other in finished for other in (None, "a", ("a", "1"), ("a", "1", 0))] == [False, False, False, True]


def test_one_thread_adds_while_another_looks() -> None:
    """
    The journal's thread writes down what is safe while the event loop asks what is owed: what was there stays there.
    """
    finished = Finished()
    for number in range(500):
        finished.add(("a", str(number), 0), 1.0)
    adding = threading.Thread(target=lambda: [finished.add(("a", str(n), 0), 1.0) for n in range(500, 30_000)])
    adding.start()
    while adding.is_alive():
        assert all(("a", str(number), 0) in finished for number in range(500))
    adding.join()

    assert len(finished) == 30_000
