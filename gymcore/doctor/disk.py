"""
What can be said of a disk in a second: which it is, whether its locks hold, and how long it takes to store something.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path

from gymcore.collection.disk import Disk
from gymcore.doctor.check import Check
from gymcore.doctor.scratch import scratch_in
from gymcore.errors import RunFolderError
from gymcore.run_folder import disk_error, only_writer

__all__ = ["file_system_of", "look"]

RECORD_BYTES = 20_000
SYNCS = 50
TRIAL_S = 2.0
SLOW_S = 0.15

_OVER_A_NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gluster", "gpfs", "lustre", "nfs", "smb")


def look(folder: Path) -> Generator[Check, None, None]:
    """
    Look at the disk that a folder lies on.

    Args:
        folder: A folder on it; it is made where there is none, and a scratch folder in it is made and removed.

    Raises:
        RunFolderError: the folder cannot be written.
        StorageError: the disk failed.
    """
    try:
        with scratch_in(folder) as scratch:
            yield _name(folder)
            yield _lock(scratch / "lock")
            yield _store(scratch)
    except OSError as error:
        raise disk_error("the folder cannot be written", error, folder) from None


def _name(folder: Path) -> Check:
    kind = file_system_of(folder)
    free = shutil.disk_usage(folder).free
    remarks = []
    if kind.startswith(_OVER_A_NETWORK):
        remarks.append(f"{kind} may be a network file system, where locks and synchronisation need not hold")
    if kind in ("tmpfs", "ramfs"):
        remarks.append(f"{kind} is memory: nothing in it outlives a power cut")
    return Check("folder", True, f"{folder} can be written: {kind}, {free / 1e9:,.1f} GB free", tuple(remarks))


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """
    Return the type of the file system that a folder lies on; `unknown` where the system does not say.

    Source:
        proc_pid_mountinfo(5): the mount point is the fifth field, the type the first after a lone hyphen.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    here = str(folder.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = fields[4].encode().decode("unicode_escape", "replace")  # blanks are written as \\040
        inside = point == "/" or here == point or here.startswith(f"{point}/")
        if inside and len(point) >= len(best):  # of two at one place, the later hides the earlier
            best, kind = point, types[0]
    return kind


def _lock(scratch: Path) -> Check:
    with only_writer(scratch):
        try:
            with only_writer(scratch):
                holds = False
        except RunFolderError:
            holds = True
    found = "a second writer is kept out" if holds else "a second writer is let in: never run twice into one folder"
    return Check("lock", holds, found)


def _store(scratch: Path) -> Check:
    disk = Disk()
    file = disk.open(scratch / "records")
    data = memoryview(os.urandom(RECORD_BYTES))
    waits: list[float] = []
    try:
        started = time.monotonic()
        while len(waits) < SYNCS and (len(waits) < 2 or time.monotonic() - started < TRIAL_S):
            begun = time.perf_counter()
            disk.write(file, data)
            disk.sync(file)
            waits.append(time.perf_counter() - begun)
    finally:
        disk.close(file)
    waits.sort()
    middle, late = waits[len(waits) // 2], waits[min(len(waits) - 1, len(waits) * 99 // 100)]
    remarks = [f"every rollout waits for the disk; above {SLOW_S * 1000:.0f} ms that shows"] if late > SLOW_S else []
    found = f"20 KB are stored in {middle * 1000:.1f} ms, the slowest of {len(waits)} times in {late * 1000:.1f} ms"
    return Check("store", True, found, tuple(remarks))
