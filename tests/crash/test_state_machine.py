"""
A journal against a dictionary: whatever is done to it in whatever order, it holds what the dictionary holds.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gymcore.collection import Journal, read_collection
from gymcore.collection.journal import Damage, read_lines
from gymcore.doctor.crashes import files_end_at
from gymcore.doctor.power_cut import Plug, RecordingDisk, write_image
from gymcore.doctor.workload import key_of, line_of, make_rollout
from gymcore.errors import StorageError
from gymcore.run_folder import FAILURES_NAME, QUARANTINE_NAME, ROLLOUTS_NAME

NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4)
LINES = [line_of(make_rollout(number)) for number in range(31)]
SEEDS = st.integers(0, 1 << 30)


class JournalMachine(RuleBasedStateMachine):
    """The journal of one folder, what it acknowledged, and what it may hold beyond that."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="journal-"))
        self.count = 0
        self.folder = self.root / "0"
        self.folder.mkdir()
        self.safe: set[int] = set()
        """Acknowledged, and not hit by a flipped bit since: these must be there."""
        self.begun: set[int] = set()
        """Written without an answer: these may be there."""
        self.hit: set[int] = set()
        """Hit by a flipped bit at some time: another flip of the same bit brings them back."""
        self.kept: list[bytes] = []
        """What was set aside: this stays."""
        self.journal: Journal | None = None
        self.open()

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.root)

    def open(self) -> None:
        """Open the folder and hold it against the model."""
        self.disk = RecordingDisk(self.folder)
        self.journal = Journal(self.folder, self.disk)
        self.journal.__enter__()
        finished = {number for number in range(31) if key_of(number) in self.journal.finished}
        assert self.safe <= finished, f"lost: {self.safe - finished}"
        unknown = finished - self.safe - self.begun - self.hit
        assert not unknown, f"nobody wrote: {unknown}"
        # What is read back from the disk is as safe as anything.
        self.safe, self.begun = finished, set()
        asides = self.folder / QUARANTINE_NAME
        there = [path.read_bytes() for path in asides.iterdir() if path.name[0] != "."] if asides.is_dir() else []
        assert all(data in there for data in self.kept), "what was set aside is gone"
        self.kept = there

    def close(self) -> None:
        """Close the folder as a process does that ends, in whatever way."""
        if self.journal is not None:
            self.journal.__exit__(None, None, None)

    def put_now(self, numbers: list[int]) -> None:
        """Append, and take what is answered as a promise."""
        assert self.journal is not None
        new = [number for number in dict.fromkeys(numbers) if number not in self.safe]
        before = self.journal.duplicates
        written = self.journal.append([make_rollout(number) for number in numbers])
        assert [int(rollout.key[1]) for rollout in written] == new
        assert self.journal.duplicates - before == len(numbers) - len(new)
        self.safe.update(new)

    @rule(numbers=NUMBERS)
    def put(self, numbers: list[int]) -> None:
        """Rollouts arrive, some of them again."""
        self.put_now(numbers)

    @rule(number=st.integers(0, 30))
    def fail(self, number: int) -> None:
        """An attempt fails; where the rollout is finished already, that is a late result."""
        assert self.journal is not None
        written = self.journal.append([make_rollout(number, failed=True)])
        assert bool(written) == (number not in self.safe)

    @rule()
    def reopen(self) -> None:
        """The run ends, and goes on."""
        self.close()
        self.open()

    @rule(numbers=NUMBERS, seed=SEEDS)
    def cut_power(self, numbers: list[int], seed: int) -> None:
        """The power goes after some operation since the folder was opened, and some of it never happened."""
        chance = random.Random(seed)
        promised = set(self.safe)
        # What is promised now was written within the operations so far, and what is put next after them.
        operations_so_far = len(self.disk.operations)
        self.put_now(numbers)
        self.close()
        plug = Plug(self.disk.start)
        last = chance.randint(operations_so_far, len(self.disk.operations))
        for operation in self.disk.operations[:last]:
            plug.follow(operation)
        self.begun = self.safe - promised
        if last < len(self.disk.operations):
            self.safe = promised
        self.count += 1
        self.folder = self.root / str(self.count)
        write_image(plug.pull(chance), self.folder)
        self.open()

    @rule(number=st.integers(0, 30), name=st.sampled_from([ROLLOUTS_NAME, FAILURES_NAME]), seed=SEEDS)
    def tear(self, number: int, name: str, seed: int) -> None:
        """A process is killed in the middle of a line."""
        self.close()
        line = LINES[number] + b"\n"
        with (self.folder / name).open("ab") as file:
            file.write(line[: random.Random(seed).randrange(1, len(line))])
        self.open()

    @precondition(lambda self: (self.folder / ROLLOUTS_NAME).stat().st_size > 0)
    @rule(seed=SEEDS)
    def flip(self, seed: int) -> None:
        """A bit flips; the rollout of that line is owed again, and no other."""
        self.close()
        chance = random.Random(seed)
        path = self.folder / ROLLOUTS_NAME
        data = bytearray(path.read_bytes())
        place = chance.randrange(len(data))
        for found in read_lines(path):
            if not isinstance(found, Damage) and found[0] <= place <= found[0] + len(found[1]):
                number = LINES.index(found[1])
                self.hit.add(number)
                self.safe.discard(number)
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        self.open()

    @rule(numbers=NUMBERS, seed=SEEDS)
    def fill(self, numbers: list[int], seed: int) -> None:
        """The disk is full from some byte on; what does not fit is cut off, and nothing more is taken."""
        assert self.journal is not None
        path = self.folder / ROLLOUTS_NAME
        size = path.stat().st_size
        with files_end_at(max(size + random.Random(seed).randrange(2000), self._others())):
            is_full = False
            try:
                self.put_now(numbers)
            except StorageError:
                is_full = True
            if is_full:
                assert path.stat().st_size == size
                with pytest.raises(StorageError):
                    self.journal.append([make_rollout(31)])
        self.reopen()

    def _others(self) -> int:
        return max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @invariant()
    def whoever_looks_sees_the_same(self) -> None:
        """A reader beside the writer finds every rollout, each with its own line."""
        found = read_collection(self.folder).finished
        assert all(key_of(number) in found for number in self.safe)
        assert len(found) == len(self.safe)
        lines = {found[1] for found in read_lines(self.folder / ROLLOUTS_NAME) if not isinstance(found, Damage)}
        assert lines == {LINES[number] for number in self.safe}


@pytest.mark.parametrize(
    ("examples", "steps"), [(25, 15), pytest.param(400, 60, marks=pytest.mark.rig)], ids=["short", "long"]
)
def test_a_journal_holds_what_it_acknowledged(examples: int, steps: int) -> None:
    """
    Puts, failures, kills, power cuts, flipped bits, full disks and reopening, in any order.
    """
    seed = os.environ.get("GYM_CRASH_SEED")
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    run_state_machine_as_test(JournalMachine, settings=chosen)
