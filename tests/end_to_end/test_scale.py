"""
Many rows need hardly more memory than few, at every stage, as real processes.

`tests/benchmarks/scale.py` measures the same with a million rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

FEW, MANY = 1_000, 12_000
MORE_MB = 6.0
"""
Measured: 0 to 3. With an object for each finished rollout, as before, a run and a resume added 15 and more for 18,000
rows more, which is 9 for these.
"""


GYM = """
import re, sys
from pathlib import Path
from gymcore.cli import main
try:
    main()
finally:
    # Not what the parent learns from `wait`: that counts the parent's own memory until the new program starts.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(f"peak {peak[1]}", file=sys.stderr)
"""


def peak_mb(*arguments: str) -> float:
    """Run `gym` to its end, and return the largest resident size of its process in MB."""
    done = subprocess.run([sys.executable, "-c", GYM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.rsplit("peak ", 1)[1]) / 1024


def peaks(count: int, folder: Path) -> dict[str, float]:
    """Compose, run, resume and report on so many tasks, and return what each of them needed in MB."""
    data = files("gym_plugin_example_single_tool_call").joinpath("data/train.jsonl").read_bytes()
    rows = [json.loads(line) for line in data.splitlines()]
    path, out = folder / "rows.jsonl", str(folder / "run")
    lines = (json.dumps({**rows[number % len(rows)], "id": number}) for number in range(count))
    path.write_text("\n".join(lines), encoding="utf-8")
    name = "example_single_tool_call"
    own = f"environments.{name}.data=[{path}]"
    needed = {
        "compose": peak_mb("compose", "--env", name, "--set", own, "--model", "nop", "--out", out),
        "run": peak_mb("run", out),
        "resume": peak_mb("run", out),
        "report": peak_mb("report", out),
    }
    total = json.loads((folder / "run" / "report.json").read_bytes())["total"]
    assert (total["finished"], total["failed"]) == (count, 0)
    return needed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say what a process needed")
def test_many_rows_need_hardly_more_memory_than_few(tmp_path: Path) -> None:
    """
    Ten times the rows add some bytes each: an index, a digest and two numbers, and no object that stays.
    """
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    few, many = peaks(FEW, tmp_path / "few"), peaks(MANY, tmp_path / "many")

    more = {stage: round(many[stage] - few[stage], 1) for stage in few}
    assert all(mb < MORE_MB for mb in more.values()), more
