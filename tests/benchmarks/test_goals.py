"""
The goals that the benchmarks of mixes measure are met, each by the script that anyone can run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.rig
@pytest.mark.parametrize("script", ["fairness.py", "hostile.py", "endpoint_faults.py"])
def test_a_benchmark_meets_its_goal(script: str) -> None:
    """
    A script that measures ends with 1 where its goal is missed.
    """
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / script], capture_output=True, text=True, check=False, timeout=900
    )

    assert done.returncode == 0, done.stdout + done.stderr
