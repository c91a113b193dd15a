"""
What a crash costs on this disk: real processes are killed, files torn, power cuts made up, and the disk filled.
"""

from __future__ import annotations

import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gymcore.collection import Journal
from gymcore.collection.journal import Damage, read_lines
from gymcore.doctor.check import Check
from gymcore.doctor.power_cut import Plug, RecordingDisk, write_image
from gymcore.doctor.scratch import scratch_in
from gymcore.doctor.workload import key_of, line_of, make_rollout
from gymcore.errors import StorageError
from gymcore.run_folder import FAILURES_NAME, QUARANTINE_NAME, ROLLOUTS_NAME, disk_error

__all__ = ["crash", "cut_power", "examine", "files_end_at", "fill_disk", "kill", "tear"]

ROLLOUTS_PER_RUN = 300
PATIENCE_S = 60.0


def crash(folder: Path, times: int, seed: int) -> Generator[Check, None, None]:
    """
    Interrupt work on a disk in every way we know, and look at what is left.

    Args:
        folder: A folder on the disk; a scratch folder is made in it and removed.
        times: How many interruptions of each kind.
        seed: The source of all chance; the same seed interrupts at the same places, as far as processes can be made to.

    Raises:
        RunFolderError: the folder cannot be written.
        StorageError: the disk failed by itself.
    """
    try:
        with scratch_in(folder) as scratch:
            for name, act in (("kill", kill), ("torn", tear), ("power", cut_power), ("full", fill_disk)):
                yield act(scratch / name, times, random.Random(f"{seed}/{name}"))
    except OSError as error:
        raise disk_error("the disk cannot be tried", error, folder) from None


def examine(folder: Path, safe: Iterable[int], written: Iterable[int]) -> list[str]:
    """
    Look at a run folder of made-up rollouts after a crash, through a journal as the next run opens it.

    Args:
        folder: The run folder.
        safe: The rollouts that were acknowledged.
        written: Those that may be there, because they were begun.

    Returns:
        What is wrong, one line each; nothing when all is well.
    """
    lines = {key_of(number): line_of(make_rollout(number)) for number in {*safe, *written}}
    with Journal(folder) as journal:
        wrong = [f"rollout {number} was safe and is lost" for number in safe if key_of(number) not in journal.finished]
        count = len(journal.finished)
    there = [found[1] for found in read_lines(folder / ROLLOUTS_NAME) if not isinstance(found, Damage)]
    wrong += [f"{times} x {line[:80]!r}" for line, times in Counter(there).items() if times > 1]
    known = set(lines.values())
    wrong += [f"nobody wrote {line[:80]!r}" for line in there if line not in known]
    if len(there) != count:
        wrong.append(f"{len(there)} lines are whole, and {count} count")
    return wrong


# -- SIGKILL -----------------------------------------------------------------------------------------------------------


class _Worker:
    """A process that collects made-up rollouts, and what it said."""

    def __init__(self, folder: Path, count: int) -> None:
        code = "import sys; from gymcore.doctor.workload import main; sys.exit(main(*sys.argv[1:]))"
        command = [sys.executable, "-c", code, str(folder), str(count)]
        # Out of reach of Ctrl-C, which is for us: whoever presses it wants no traceback of a child.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        self._heard = bytearray()
        self._end = time.monotonic() + PATIENCE_S

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self._pipe.close()

    def listen(self, lines: int) -> None:
        """Wait until it has said some lines, or ends."""
        while self._heard.count(b"\n") < lines and self._hear():
            pass

    def _hear(self) -> bool:
        ready, _, _ = select.select([self._pipe], [], [], max(0.0, self._end - time.monotonic()))
        if not ready:
            raise StorageError(f"a process that collects did not end within {PATIENCE_S:g} s")
        data = self._pipe.read1(65536)  # type: ignore[attr-defined]  # a buffered reader
        self._heard += data
        return bool(data)

    def end(self) -> tuple[int, list[int], list[int]]:
        """Wait for its end, and return its exit code, which rollouts it played, and which of them it said are safe."""
        while self._hear():
            pass
        code = self.process.wait()
        words = [line.split() for line in self._heard.decode().splitlines()]
        played = [int(number) for word, number in words if word == "played"]
        return code, played, [int(number) for word, number in words if word == "safe"]


def kill(folder: Path, times: int, chance: random.Random) -> Check:
    """Kill collecting processes at random moments, go on in the same folder, and start anew when it is complete."""
    started = time.monotonic()
    wrong: list[str] = []
    kills = runs = 0
    while kills < times and not wrong:
        runs += 1
        run = folder / str(runs)
        safe: set[int] = set()
        before = b""
        code = None
        while code != 0 and not wrong:
            with _Worker(run, ROLLOUTS_PER_RUN) as worker:
                if kills < times:
                    if chance.random() < 0.9:
                        worker.listen(chance.randrange(1, ROLLOUTS_PER_RUN))
                    time.sleep(chance.random() * 0.01)
                    worker.process.kill()
                code, played, now_safe = worker.end()
            kills += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                wrong.append(f"a process that collects ended with {code}")
            wrong += [f"rollout {number} was safe and is played again" for number in played if number in safe]
            safe.update(now_safe)
            after = (run / ROLLOUTS_NAME).read_bytes() if (run / ROLLOUTS_NAME).exists() else b""
            if not after.startswith(before):
                wrong.append("lines that were written have changed")
            before = after[: after.rfind(b"\n") + 1]
        if code == 0:
            wrong += examine(run, range(ROLLOUTS_PER_RUN), ())
    found = f"{kills} processes killed in {runs} runs of {ROLLOUTS_PER_RUN} rollouts"
    return Check.of("kill", found, wrong, time.monotonic() - started)


# -- a torn tail -------------------------------------------------------------------------------------------------------


def tear(folder: Path, times: int, chance: random.Random) -> Check:
    """Cut the last line off at many bytes, and open the folder again."""
    started = time.monotonic()
    wrong: list[str] = []
    lines = [line_of(make_rollout(number)) + b"\n" for number in range(3)]
    kept = b"".join(lines[:2])
    for number, length in enumerate(_places(len(lines[2]), times, chance)):
        run = folder / str(number)
        run.mkdir(parents=True)
        (run / ROLLOUTS_NAME).write_bytes(kept + lines[2][:length])
        with Journal(run) as journal:
            if bool(journal.damaged) != bool(length):
                wrong.append(f"a line cut off after {length} bytes is not noticed")
            if (run / ROLLOUTS_NAME).read_bytes() != kept:
                wrong.append(f"a line cut off after {length} bytes stays in the way")
            journal.append([make_rollout(2)])
        if length and [path.read_bytes() for path in (run / QUARANTINE_NAME).iterdir()] != [lines[2][:length]]:
            wrong.append(f"the {length} bytes of a torn line were not kept")
        wrong += examine(run, range(3), range(3))
    return Check.of("torn tail", f"a line cut off at {number + 1} of its bytes", wrong, time.monotonic() - started)


def _places(size: int, times: int, chance: random.Random) -> list[int]:
    """Return up to `times` different places in something, its ends among them."""
    ends = {0, 1, size - 1}
    others = [place for place in range(size) if place not in ends]
    return sorted([*ends, *chance.sample(others, max(0, min(len(others), times - len(ends))))])


# -- a power cut -------------------------------------------------------------------------------------------------------


def cut_power(
    folder: Path,
    times: int,
    chance: random.Random,
    *,
    records: int = 40,
    damages: int = 1,
    recording: Callable[[Path], RecordingDisk] = RecordingDisk,
) -> Check:
    """
    Record what a journal does to the disk while it is torn, mended and written, and cut the power after operations.

    Args:
        folder: Where; it is made.
        times: After how many of the operations; all, where there are not more.
        chance: Where, and what is damaged.
        records: How many rollouts are written.
        damages: How many states are built after each operation.
        recording: The disk that is recorded.
    """
    started = time.monotonic()
    wrong: list[str] = []
    folder.mkdir(parents=True)
    record = _record(recording, folder / "recorded", records, chance)
    plug = Plug(record.disk.start)
    places = set(_places(len(record.disk.operations) + 1, times, chance))
    images = 0
    for count, operation in enumerate([None, *record.disk.operations]):
        if operation is not None:
            plug.follow(operation)
        safe = [number for number, stored in record.safe_after.items() if stored <= count]
        for _ in range(damages if count in places else 0):
            images += 1
            run = folder / str(images)
            write_image(plug.pull(chance), run)
            found = examine(run, safe, range(records))
            if count >= record.torn_after and not _holds(run, record.torn):
                found.append("a torn line that was stored is in the file no more, and not in quarantine")
            with Journal(run) as journal:
                journal.append([make_rollout(number) for number in range(records)])
            found += [f"gone on: {line}" for line in examine(run, range(records), ())]
            wrong += [f"after operation {count}: {line}" for line in found]
            shutil.rmtree(run)
    tried = f"{images} states at {len(places)} of {len(record.disk.operations) + 1} moments between two operations"
    return Check.of("power cut", tried, wrong, time.monotonic() - started)


@dataclass
class _Record:
    """What was done to a disk, and what could be relied on after which operation."""

    disk: RecordingDisk
    safe_after: dict[int, int]
    torn: bytes = b""
    torn_after: int = 0
    unanswered: list[int] = field(default_factory=list)


def _record(recording: Callable[[Path], RecordingDisk], run: Path, records: int, chance: random.Random) -> _Record:
    """Write rollouts in three sessions; killed processes leave a torn line between two, an unstored one between two."""
    run.mkdir()
    record = _Record(recording(run), {})
    disk = record.disk
    todo = list(range(records))
    for session, until in enumerate((records * 2 // 3, records // 3, 0)):
        with Journal(run, disk) as journal:
            # What counts is stored, also where it was found without an answer.
            record.safe_after.update(dict.fromkeys(record.unanswered, len(disk.operations)))
            while len(todo) > until:
                group, todo = todo[:1], todo[1:]
                while len(todo) > until and chance.random() < 0.2:
                    group.append(todo.pop(0))
                failed = [make_rollout(records, failed=True)] if chance.random() < 0.2 else []
                journal.append([*map(make_rollout, group), *failed])
                record.safe_after.update(dict.fromkeys(group, len(disk.operations)))
        if session == 0:
            line = line_of(make_rollout(records))
            record.torn = line[: chance.randrange(1, len(line))]
            for name in (FAILURES_NAME, ROLLOUTS_NAME):
                _leave(disk, run / name, record.torn, is_stored=True)
            record.torn_after = len(disk.operations)
        elif session == 1 and len(todo) > 1:
            record.unanswered = [todo.pop(0)]
            line = line_of(make_rollout(record.unanswered[0]))
            _leave(disk, run / ROLLOUTS_NAME, line + b"\n", is_stored=False)
    return record


def _leave(disk: RecordingDisk, path: Path, data: bytes, *, is_stored: bool) -> None:
    file = disk.open(path)
    disk.write(file, memoryview(data))
    if is_stored:
        disk.sync(file)
    disk.close(file)


def _holds(run: Path, torn: bytes) -> bool:
    kept = run / QUARANTINE_NAME
    return any(path.read_bytes() == torn for path in kept.iterdir()) if kept.is_dir() else False


# -- a full disk -------------------------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond some bytes: a write is first short, and then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_disk(folder: Path, times: int, chance: random.Random) -> Check:
    """Let the system refuse every byte of a file from some place in a line on, and go on when there is room again."""
    started = time.monotonic()
    wrong: list[str] = []
    size = len(line_of(make_rollout(2))) + 1
    places = _places(size, times, chance)
    for place in places:
        run = folder / str(place)
        with Journal(run) as journal:
            journal.append([make_rollout(0), make_rollout(1)])
            kept = (run / ROLLOUTS_NAME).read_bytes()
            with files_end_at(len(kept) + place):
                try:
                    journal.append([make_rollout(2)])
                    wrong.append(f"a disk that is full after {place} bytes of a line is not noticed")
                except StorageError:
                    pass
        if (run / ROLLOUTS_NAME).read_bytes() != kept:
            wrong.append(f"{place} bytes of a line stay on a full disk")
        wrong += examine(run, range(2), range(2))
        with Journal(run) as journal:
            journal.append([make_rollout(number) for number in range(3)])
        wrong += examine(run, range(3), range(3))
    return Check.of("full disk", f"no room from {len(places)} bytes of a line on", wrong, time.monotonic() - started)
