"""
What an installation weighs: the core, then the core with the three bundled plugins, in fresh virtual environments.

    python tests/benchmarks/install_size.py

Prints megabytes added to an empty environment, and how many seconds pip took; the goals are 30 and 42 MB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGINS = ("example_single_tool_call", "example_multi_step", "openai_model")


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def main() -> None:
    for title, projects in {
        "core": [ROOT],
        "core and three plugins": [ROOT, *(ROOT / "plugins" / name for name in PLUGINS)],
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            before = megabytes(Path(folder))
            started = time.perf_counter()
            pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *map(str, projects)], check=True)
            wall = time.perf_counter() - started
            print(f"{title:24} {megabytes(Path(folder)) - before:6.1f} MB, installed in {wall:.1f} s")


if __name__ == "__main__":
    main()
