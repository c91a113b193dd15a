"""
A power cut after any I/O step: nothing that was synchronised is lost, and nothing damaged is taken for whole.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.doctor.crashes import cut_power
from gymcore.doctor.power_cut import Operation, Plug, RecordingDisk, read_image, write_image

EVERY = 1_000_000


@pytest.mark.parametrize(
    ("records", "damages"), [(25, 1), pytest.param(200, 5, marks=pytest.mark.rig)], ids=["small", "large"]
)
def test_a_power_cut_after_any_operation_costs_nothing(
    tmp_path: Path, chance: random.Random, records: int, damages: int
) -> None:
    """
    Every state that the model allows is opened, found right, written to the end, and found right again.
    """
    check = cut_power(tmp_path / "power", EVERY, chance, records=records, damages=damages)

    print(check.found, f"in {check.seconds:.1f} s")
    assert check.is_well, check.remarks


class WithoutSync(RecordingDisk):
    """A disk that says it has stored a file, and has not."""

    def sync(self, file: int) -> None:
        pass


class WithoutFolderSync(RecordingDisk):
    """A disk that says it has stored the names in a folder, and has not."""

    def sync_folder(self, path: Path) -> None:
        pass


class WithoutQuarantineSync(RecordingDisk):
    """A disk that stores everything but the names of what is set aside."""

    def sync_folder(self, path: Path) -> None:
        if path.name != "quarantine":
            super().sync_folder(path)


@pytest.mark.parametrize("disk", [WithoutSync, WithoutFolderSync, WithoutQuarantineSync])
def test_the_rig_notices_a_synchronisation_that_is_missing(
    tmp_path: Path, chance: random.Random, disk: type[RecordingDisk]
) -> None:
    """
    A rig that finds nothing proves something only when it finds what is there to be found.
    """
    check = cut_power(tmp_path / "power", EVERY, chance, records=9, damages=2, recording=disk)

    assert not check.is_well
    assert any("lost" in line or "quarantine" in line for line in check.remarks), check.remarks


# -- the model itself --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "cut", "sync", "folder"]), NAMES, st.binary(max_size=700)), max_size=12
)


@given(STEPS, st.integers(0, 99))
def test_what_was_stored_is_left_by_every_power_cut(steps: list[tuple[str, str, bytes]], seed: int) -> None:
    """
    The bytes of a synchronised file stay, up to where it was cut since, under a name whose folder was synchronised.
    """
    plug = Plug({})
    numbers: dict[str, int] = {}
    content: dict[str, bytes] = {}
    stored: dict[str, bytes] = {}
    named: set[str] = set()
    for what, name, data in steps:
        if name not in numbers:
            numbers[name] = len(numbers)
            content[name] = stored[name] = b""
            plug.follow(Operation("create", name, numbers[name]))
        match what:
            case "append":
                content[name] += data
                plug.follow(Operation("write", file=numbers[name], data=data))
            case "cut":
                content[name] = content[name][: len(data)]
                stored[name] = stored[name][: len(data)]
                plug.follow(Operation("truncate", file=numbers[name], size=len(content[name])))
            case "sync":
                stored[name] = content[name]
                plug.follow(Operation("sync", file=numbers[name]))
            case "folder":
                named |= set(numbers)
                plug.follow(Operation("sync_folder", "."))

    image = plug.pull(random.Random(seed))

    assert named <= set(image) <= set(numbers)
    for name, data in image.items():
        assert data is not None
        assert data.startswith(stored[name])


def test_what_was_not_stored_may_be_lost_kept_or_damaged(tmp_path: Path) -> None:
    """
    The model is as harsh as it says: of many cuts, some leave everything, some nothing, and some garbage.
    """
    plug = Plug({"a": b"old"})
    plug.follow(Operation("write", file=0, data=b"x" * 600))
    chance = random.Random(1)

    left = [plug.pull(chance)["a"] or b"" for _ in range(200)]

    assert all(data.startswith(b"old") for data in left)
    assert b"old" in left
    assert b"old" + b"x" * 600 in left
    assert any(data.strip(b"x\x00") not in (b"old", b"") for data in left)
    assert len({len(data) for data in left}) > 20


def test_a_recording_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    """
    Followed to the end and synchronised, the model holds exactly the files.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "there").write_bytes(b"before")
    disk = RecordingDisk(folder)
    for path in (folder / "there", folder / "new.part"):
        file = disk.open(path)
        disk.write(file, memoryview(b"0123456789"))
        disk.truncate(file, 8)
        disk.sync(file)
        disk.close(file)
    disk.make_folder(folder / "inner")
    disk.rename(folder / "new.part", folder / "inner" / "new")
    for path in (folder, folder / "inner"):
        disk.sync_folder(path)
    plug = Plug(disk.start)
    for operation in disk.operations:
        plug.follow(operation)

    image = plug.pull(random.Random(0))

    assert image == read_image(folder) == {"inner": None, "inner/new": b"01234567", "there": b"before01"}
    write_image(image, tmp_path / "copy")
    assert read_image(tmp_path / "copy") == image
