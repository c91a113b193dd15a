"""
A single flipped bit anywhere in a journal file: it is found, and only the rollout that it hit is owed again.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gymcore.collection import Journal, read_collection
from gymcore.doctor.workload import key_of, make_rollout
from gymcore.run_folder import ROLLOUTS_NAME

ROLLOUTS = 40


@pytest.mark.parametrize("flips", [1000, pytest.param(20_000, marks=pytest.mark.rig)])
def test_every_flipped_bit_is_found_and_costs_one_rollout(tmp_path: Path, chance: random.Random, flips: int) -> None:
    """
    Line breaks included: a line that swallowed the next one does not take it along.
    """
    with Journal(tmp_path) as journal:
        journal.append([make_rollout(number) for number in range(ROLLOUTS)])
    path = tmp_path / ROLLOUTS_NAME
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    wrong = []

    for number in range(flips):
        # Line breaks are rare, and what is different about them: every tenth flip hits one.
        place = chance.choice(ends) if number % 10 == 0 else chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        hit = whole[:place].count(b"\n")

        found = read_collection(tmp_path)

        missing = [number for number in range(ROLLOUTS) if key_of(number) not in found.finished]
        if missing != [hit] or not found.damaged:
            wrong.append(f"bit flip in byte {place}, rollout {hit}: missing {missing}, damaged {found.damaged}")

    assert not wrong, f"{len(wrong)} of {flips}: {wrong[:5]}"
    print(f"{flips} bit flips: all found, {flips} rollouts owed again, no other")


def test_a_flipped_bit_is_mended_by_playing_that_rollout_again(tmp_path: Path, chance: random.Random) -> None:
    """
    The damaged bytes stay and are copied, the rollout is appended, and from then on all of them count.
    """
    with Journal(tmp_path) as journal:
        journal.append([make_rollout(number) for number in range(5)])
    path = tmp_path / ROLLOUTS_NAME
    for _ in range(20):
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data) - 1)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)

        with Journal(tmp_path) as journal:
            owed = [number for number in range(5) if key_of(number) not in journal.finished]
            assert len(owed) <= 1  # none, where the bit lies in what was damaged before
            journal.append([make_rollout(number) for number in range(5)])

        assert len(read_collection(tmp_path).finished) == 5
        assert path.read_bytes().startswith(bytes(data)), "nothing is rewritten"
