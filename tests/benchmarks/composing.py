"""
What composing costs: beside `jq`, which checks nothing, and with a million rows of four environments.

    python tests/benchmarks/composing.py [--data FILE] [--runs 3] [--million] [--scratch FOLDER]

First 110 MB, 10,000 rows of 11 KB, are composed, and `jq -c '. + {...}'` adds a route to the same file; both are whole
processes, in turn. The rows are those of example_multi_step, with prompts that are made as long; those of --data, where
that is given, a file of rows of that environment without a route.
With --million, a million rows of 1 KB for four environments are shuffled and mixed by weights in batches; that takes
about two minutes and 4 GB of the scratch folder. The goals are 60 s of CPU time and a peak below 300 MB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from measure import alternate, machine, run_once

ENVIRONMENT = "example_multi_step"
FILTER = f'. + {{"agent_ref": {{"name": "{ENVIRONMENT}_simple_agent"}}}}'
GYM = [sys.executable, "-m", "gymcore"]


def rows_of(environment: str) -> list[dict[str, object]]:
    """Return the training rows of a bundled environment."""
    data = files(f"gym_plugin_{environment}").joinpath("data/train.jsonl").read_bytes()
    return [json.loads(line) for line in data.splitlines()]


def long_rows(size: int) -> Iterator[str]:
    """Yield rows of about so many bytes, for ever: a list of synonyms as long as it takes."""
    for number, row in enumerate(itertools.cycle(rows_of(ENVIRONMENT))):
        row = json.loads(json.dumps({**row, "id": number}))
        system = row["responses_create_params"]["input"][0]
        while len(json.dumps(row)) < size:
            system["content"] += "\n" + system["content"][: size - len(json.dumps(row))]
        yield json.dumps(row)


def write_long(path: Path, given: str | None) -> None:
    """Write 110 MB of rows."""
    with path.open("w", encoding="utf-8") as file:
        if given is None:
            file.writelines(line + "\n" for line in itertools.islice(long_rows(11_000), 10_000))
            return
        rows = itertools.cycle([json.loads(line) for line in Path(given).read_text().splitlines()])
        file.writelines(json.dumps({**next(rows), "id": number}) + "\n" for number in range(10_000))


def write_short(folder: Path) -> None:
    """Write four files of 250,000 rows."""
    for name in range(4):
        rows = itertools.cycle(rows_of("example_single_tool_call"))
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(250_000):
                file.write(json.dumps({**next(rows), "id": number, "note": "x" * 400}) + "\n")


def elsewhere(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process of its own: what this one holds would count as memory of those it starts."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{function.__name__} failed")


def beside_jq(given: str | None, runs: int, scratch: Path) -> None:
    """Print what composing a file costs, and what jq does."""
    rows, out = scratch / "rows.jsonl", scratch / "run"
    elsewhere(write_long, rows, given)
    megabytes = rows.stat().st_size / 1e6
    setting = f"environments.{ENVIRONMENT}.data=[{rows}]"
    compose = [*GYM, "compose", "--env", ENVIRONMENT, "--set", setting]
    few = scratch / "few.jsonl"
    with rows.open() as file:
        few.write_text(file.readline())
    commands = {
        "jq": ["sh", "-c", 'exec jq -c "$0" "$1" > "$2"', FILTER, str(rows), str(scratch / "routed.jsonl")],
        "compose": [*compose, "--out", str(out)],
        "start": [*GYM, "compose", "--env", ENVIRONMENT, "--set", setting.replace(str(rows), str(few)), "--dry-run"],
    }
    figures = alternate(commands, runs)
    cpu = {name: statistics.median(figure.cpu_s for figure in taken) for name, taken in figures.items()}
    print(f"10,000 rows, {megabytes:.0f} MB, medians of {runs} pairs; {machine(figures['compose'])}")
    for name in ("jq", "compose"):
        peak = max(figure.peak_mb for figure in figures[name])
        print(f"  {name:8} {cpu[name]:6.2f} s CPU  {megabytes / cpu[name]:6.0f} MB a second  peak {peak:.0f} MB")
    print(f"  throughput: {cpu['jq'] / cpu['compose']:.1f} times that of jq, the start of the process included")
    rest = cpu["compose"] - cpu["start"]
    print(f"  without the start, which takes {cpu['start']:.2f} s: {cpu['jq'] / rest:.1f} times; the goal is 5")


def a_million(scratch: Path) -> None:
    """Print what mixing a million rows costs."""
    elsewhere(write_short, scratch)
    plan = {"environments": {}, "mix": {"batch": 64, "seed": 7, "size": 1_000_000}}
    for number, weight in enumerate((1, 2, 3, 4)):
        entry = {"use": "example_single_tool_call", "data": str(scratch / f"{number}.jsonl"), "weight": weight}
        plan["environments"][f"world_{number}"] = entry  # type: ignore[index]
    (scratch / "plan.yaml").write_text(json.dumps(plan))
    size = sum(path.stat().st_size for path in scratch.glob("?.jsonl")) / 1_000_000
    out = scratch / "run"
    figure = run_once([*GYM, "compose", "--plan", str(scratch / "plan.yaml"), "--out", str(out)])
    assert sum(1 for _ in (out / "dataset.jsonl").open("rb")) == 1_000_000
    shutil.rmtree(out)
    print(f"1,000,000 rows of {size:.0f} bytes, four environments, shuffled, in batches of 64")
    print(f"  {figure.cpu_s:.1f} s CPU (goal 60), {figure.wall_s:.1f} s, peak {figure.peak_mb:.0f} MB (goal 300)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--scratch", help="where the files go; the folder for temporary files, where nothing is said")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gymcore-composing-", dir=options.scratch) as scratch:
        beside_jq(options.data, options.runs, Path(scratch))
    if options.million:
        with tempfile.TemporaryDirectory(prefix="gymcore-composing-", dir=options.scratch) as scratch:
            a_million(Path(scratch))


if __name__ == "__main__":
    main()
