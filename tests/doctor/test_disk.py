"""
What the doctor sees of a disk in a second.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gymcore.collection import Journal
from gymcore.doctor import Check
from gymcore.doctor.disk import file_system_of, look
from gymcore.doctor.scratch import scratch_in
from gymcore.doctor.workload import make_rollout
from gymcore.errors import RunFolderError
from gymcore.run_folder import only_writer

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
40 22 0:35 / /data rw,relatime shared:2 - nfs4 server:/export rw
41 40 8:17 / /data/fast rw master:3 propagate_from:2 - xfs /dev/sdb1 rw
42 22 0:36 / /with\\040blank rw - fuse.sshfs host: rw
43 22 0:37 / /tmp rw - ext4 /dev/sdc1 rw
44 43 0:38 / /tmp rw - tmpfs tmpfs rw
half a line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/runs", "ext4"),
        ("/data", "nfs4"),
        ("/data/runs", "nfs4"),
        ("/database", "ext4"),
        ("/data/fast/runs", "xfs"),
        ("/with blank/runs", "fuse.sshfs"),
        ("/tmp/runs", "tmpfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    """
    The longest mount point above the folder; of two at one place the one on top.
    """
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)

    assert file_system_of(Path(folder), mounts) == kind


def test_where_the_system_does_not_say_the_file_system_is_unknown(tmp_path: Path) -> None:
    """
    Not every system has /proc.
    """
    assert file_system_of(tmp_path, tmp_path / "none") == "unknown"


def test_a_disk_that_is_well_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    """
    Written to, locked and timed, with nothing left behind.
    """
    checks = list(look(tmp_path))

    assert [(check.name, check.is_well) for check in checks] == [("folder", True), ("lock", True), ("store", True)]
    assert "can be written: " in checks[0].found
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_doctor_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    """
    A folder is nobody's when nobody holds its lock, and its maker had time to take it.
    """
    for name in ("killed", "alive", "new"):
        folder = tmp_path / f".gym-doctor-{name}"
        with Journal(folder) as journal:
            journal.append([make_rollout(0)])
        if name != "new":
            os.utime(folder, (0, 0))

    with only_writer(tmp_path / ".gym-doctor-alive"):
        assert all(check.is_well for check in look(tmp_path))

    assert sorted(path.name for path in tmp_path.iterdir()) == [".gym-doctor-alive", ".gym-doctor-new"]


def test_a_folder_is_removed_though_somebody_asks_again_to_stop(tmp_path: Path) -> None:
    """
    The second signal of an impatient supervisor finds the doctor at its broom; it is heard when all is gone.
    """
    asked = []

    def ask_again(number: int, frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ask_again)
    try:
        with pytest.raises(KeyboardInterrupt), scratch_in(tmp_path) as scratch:  # noqa: PT012
            for number in range(3000):
                (scratch / str(number)).touch()
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            raise KeyboardInterrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert asked == [signal.SIGALRM]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_a_wrong_request(tmp_path: Path, place: str) -> None:
    """
    The message names it.
    """
    (tmp_path / "file").write_text("mine")

    with pytest.raises(RunFolderError, match="the folder cannot be written: ") as caught:
        list(look(tmp_path / place))

    assert caught.value.where == str(tmp_path / place)


def test_a_check_shows_the_first_mistakes_and_counts_all() -> None:
    """
    A thousand mistakes are as bad as one, and nobody wants to read them.
    """
    check = Check.of("kill", "3 kills", [f"mistake {number}" for number in range(9)], 1.0)

    assert not check.is_well
    assert check.found == "3 kills: 9 mistakes"
    assert check.remarks == (*(f"mistake {number}" for number in range(5)), "... and 4 more")
    assert Check.of("kill", "3 kills", [], 1.0).found == "3 kills: nothing lost, twice, damaged or done again"
