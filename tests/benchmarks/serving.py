"""
What serving costs: to start, for a thousand sessions at once, over a hundred thousand rollouts, and beside NeMo Gym.

    python tests/benchmarks/serving.py [--sessions 1000] [--soak 100000] [--nemo-python PATH] [--rows 200]

`start` counts from the start of the process until it answers. `sessions` opens so many at once and has each call a tool
20 times, 500 calls a second in all; every session adds its own numbers up, and the sums are compared. `soak` has rows
played by /run, 64 at a time, and looks at the memory and the descriptors of the server on the way.
With --nemo-python, a Python that has nemo-gym 0.4.0, its own collector collects the same rows from us and from its own
servers, both asking the same endpoint: --endpoint, such as http://127.0.0.1:8900/v1, which plays both bundled
environments. CPU time is that of every process on the serving side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import aiohttp

BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step")

ADDER = '''
from gymcore import Environment
from gymcore.interfaces import say, tool

class Adder(Environment):
    """Adds numbers up."""

    async def open(self):
        self.total = 0

    @tool
    def add(self, number: int) -> dict[str, int]:
        """Add a number."""
        self.total += number
        return {"total": self.total}

    def verify(self, trajectory):
        return float(self.total)

    async def solve(self):
        yield say("Done.")
'''


def install_adder(folder: Path) -> Path:
    """Write an environment that keeps a sum, with its metadata, into a folder for PYTHONPATH."""
    package = folder / "site" / "adder_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ADDER)
    (package / "gym.yaml").write_text("gym_api: 1\ndescription: Adds numbers up.\nsplits: {example: example.jsonl}\n")
    (package / "example.jsonl").write_text('{"responses_create_params": {"input": "Add."}}\n')
    info = folder / "site" / "gym_plugin_adder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gym-plugin-adder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gymcore.environments]\nadder = adder_plugin:Adder\n")
    return folder / "site"


@contextmanager
def serving(folder: Path, *arguments: str, path: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `gym serve`, and yield its process and its address once it answers."""
    port_file = folder / f"port-{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "gymcore", "serve", *arguments, "--port", "0", "--port-file", str(port_file)]
    paths = [*([] if path is None else [str(path)]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    log = (folder / "serve.log").open("ab")
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        while not port_file.exists():
            if process.poll() is not None:
                raise SystemExit((folder / "serve.log").read_text())
            time.sleep(0.005)
        yield process, f"http://127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident size of a process, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def start(folder: Path, runs: int = 5) -> None:
    """Print how long it takes until it serves."""
    walls, cpus, sizes = [], [], []
    for number in range(runs):
        begun = time.perf_counter()
        with serving(folder, *BOTH, "--out", f"start-{number}") as (process, _):
            walls.append(time.perf_counter() - begun)
            cpus.append(cpu_s(process.pid))
            sizes.append(resident_mb(process.pid))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    wall, cpu, size = map(statistics.median, (walls, cpus, sizes))
    print(f"start: two environments answer after {wall:.2f} s ({cpu:.2f} s CPU), {size:.0f} MB,", end=" ")
    print(f"{1 + len(children)} process; the goals are 1.5 s, 150 MB, one process")


async def one_session(client: aiohttp.ClientSession, url: str, row: dict[str, Any], number: int, due: float,
                      pause_s: float, calls: int, taken: list[float]) -> bool:  # fmt: skip
    """Seed, call a tool so often at its own pace, verify; say whether the sum was this session's own."""
    async with client.post(f"{url}/seed_session", json=row) as reply:
        cookie = {"cookie": reply.headers["set-cookie"].partition(";")[0]}
    loop = asyncio.get_running_loop()
    for call in range(calls):
        await asyncio.sleep(due + call * pause_s - loop.time())
        begun = time.perf_counter()
        async with client.post(f"{url}/add", json={"number": number}, headers=cookie) as reply:
            total = (await reply.json())["total"]
        taken.append(time.perf_counter() - begun)
        if total != number * (call + 1):
            return False
    body = {**row, "response": {"output": []}}
    async with client.post(f"{url}/verify", json=body, headers=cookie) as reply:
        reward: float = (await reply.json())["reward"]
    return reward == number * calls


def sessions(folder: Path, path: Path, count: int, calls: int = 20, rate: int = 500) -> None:
    """Print how long tool calls take where many sessions are open at once."""

    async def all_of_them(url: str, row: dict[str, Any]) -> tuple[int, list[float]]:
        taken: list[float] = []
        pause_s = count / rate
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=jar) as client:
            begin = asyncio.get_running_loop().time() + 3.0  # once all of them are open
            playing = [
                one_session(client, url, row, number, begin + number / rate, pause_s, calls, taken)
                for number in range(count)
            ]
            right = sum(await asyncio.gather(*playing))
        return right, taken

    with serving(folder, "--env", "adder", "--out", "sessions", path=path) as (process, url):
        row = json.loads((folder / "sessions/dataset.jsonl").read_text())
        before, begun = cpu_s(process.pid), time.perf_counter()
        right, taken = asyncio.run(all_of_them(url, row))
        wall, cpu = time.perf_counter() - begun, cpu_s(process.pid) - before
        size = resident_mb(process.pid)
    at = statistics.quantiles(taken, n=1000)
    print(f"sessions: {right:,} of {count:,} kept their own state, {len(taken):,} calls at {rate} a second")
    print(f"  a call took {at[499] * 1000:.1f} ms (p50), {at[989] * 1000:.1f} ms (p99); the goal is a p99 of 50 ms")
    print(f"  {cpu:.1f} s CPU in {wall:.0f} s, {cpu / (count * (calls + 2)) * 1e6:.0f} us a request, {size:.0f} MB")


def soak(folder: Path, path: Path, count: int, at_once: int = 64) -> None:
    """Print how memory and descriptors go while many rollouts are played over the wire."""

    async def post(url: str, row: dict[str, Any], numbers: Iterator[int], process: int) -> None:
        async def worker(client: aiohttp.ClientSession) -> None:
            for number in numbers:
                body = {**row, "_ng_task_index": number, "_ng_rollout_index": 0}
                async with client.post(f"{url}/run", json=body) as reply:
                    assert (await reply.json())["reward"] == 0.0
                if number % max(1, count // 10) == 0:
                    print(f"  {number:8,} rollouts: {resident_mb(process):6.1f} MB, {descriptors(process)} descriptors")

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            await asyncio.gather(*[worker(client) for _ in range(at_once)])

    with serving(folder, "--env", "adder", "--out", "soak", path=path) as (process, url):
        row = json.loads((folder / "soak/dataset.jsonl").read_text())
        print(f"soak: {count:,} rollouts, {at_once} at a time")
        before, begun = cpu_s(process.pid), time.perf_counter()
        asyncio.run(post(url, row, iter(range(count)), process.pid))
        wall, cpu = time.perf_counter() - begun, cpu_s(process.pid) - before
        time.sleep(1)
        print(f"  afterwards: {resident_mb(process.pid):.1f} MB, {descriptors(process.pid)} descriptors")
    with (folder / "soak/rollouts.jsonl").open("rb") as file:
        lines = sum(1 for _ in file)
    assert lines == count, lines
    print(f"  {count / wall:,.0f} rollouts a second, {cpu / count * 1e6:.0f} us CPU each; all {lines:,} on the disk")


# -- beside clients that mean no good ----------------------------------------------------------------------------------


async def trouble(url: str) -> None:
    """Be slow and hostile until somebody ends this process."""
    host, _, port = url.removeprefix("http://").partition(":")

    async def say(*parts: bytes, pause_s: float = 0.0) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                for part in parts:
                    if writer.is_closing():
                        break
                    writer.write(part)
                    await asyncio.sleep(pause_s)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.05)

    head = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: "
    silent = [say() for _ in range(300)]
    slow_heads = [say(*[b"x"] * 1000, pause_s=0.5) for _ in range(100)]
    slow_bodies = [say(head + b"1000\r\n\r\n", *[b"{"] * 1000, pause_s=0.5) for _ in range(100)]
    garbage = [say(b"\x00\xff" * 500, pause_s=0.5) for _ in range(5)]
    too_long = [say(head + b"999999999999\r\n\r\n" + b" " * 10_000, pause_s=0.5) for _ in range(5)]
    no_rows = [say(head + b"100000\r\n\r\n" + b"[" * 100_000, pause_s=0.5) for _ in range(5)]
    print("ready", flush=True)
    await asyncio.gather(*silent, *slow_heads, *slow_bodies, *garbage, *too_long, *no_rows)


def beside_trouble(folder: Path, path: Path, count: int = 4_000, pairs: int = 3) -> None:
    """Print what a collecting run loses to slow and hostile clients."""

    async def collected(url: str, row: dict[str, Any]) -> None:
        numbers = iter(range(count))

        async def worker(client: aiohttp.ClientSession) -> None:
            for _ in numbers:
                async with client.post(f"{url}/run", json=row) as reply:
                    assert reply.status == 200

        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*[worker(client) for _ in range(32)])

    taken: dict[bool, list[float]] = {False: [], True: []}
    with serving(folder, "--env", "adder", "--out", "trouble", path=path) as (process, url):
        row = json.loads((folder / "trouble/dataset.jsonl").read_text())
        asyncio.run(collected(url, row))  # warm
        for _ in range(pairs):
            for is_beside in (False, True):
                with trouble_beside(url) if is_beside else nullcontext():
                    before = cpu_s(process.pid)
                    asyncio.run(collected(url, row))
                    taken[is_beside].append(cpu_s(process.pid) - before)
    alone, beside = (statistics.median(taken[key]) / count * 1e6 for key in (False, True))
    print(f"beside 500 slow clients and 15 hostile ones: {beside:.0f} us CPU a rollout, {alone:.0f} alone,", end=" ")
    print(f"{beside / alone - 1:+.0%}; the goal is +10%")


@contextmanager
def trouble_beside(url: str) -> Iterator[None]:
    """Have another process make trouble while inside."""
    process = subprocess.Popen([sys.executable, __file__, "--trouble", url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(2)  # until all of them are there
    try:
        yield
    finally:
        process.kill()
        process.wait()


# -- beside NeMo Gym ---------------------------------------------------------------------------------------------------


def marked(mark: str) -> list[int]:
    """Return the processes that have a mark in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdigit() and mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


def marked_cpu_s(mark: str) -> float:
    """Return the CPU time of all of them."""
    total = 0.0
    for pid in marked(mark):
        with suppress(OSError):
            total += cpu_s(pid)
    return total


def collect(python: Path, port: int, rows: Path, out: Path) -> None:
    """Have NeMo Gym's own collector collect rows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [python.with_name("ng_collect_rollouts"), "+head_server.host=127.0.0.1", f"+head_server.port={port}"]
    files = [f"+input_jsonl_fpath={rows}", f"+output_jsonl_fpath={out}", "+num_samples_in_parallel=32"]
    environ = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "WANDB_MODE": "disabled"}
    subprocess.run([*command, *files], cwd=out.parent, env=environ, check=True, capture_output=True)


@contextmanager
def ng_run(python: Path, folder: Path, endpoint: str, mark: str) -> Iterator[int]:
    """Run both environments as NeMo Gym's own servers."""
    names = ("example_single_tool_call", "example_multi_step")
    parts = [f"resources_servers/{name}" for name in names]
    for part in (*parts, "responses_api_agents/simple_agent", "responses_api_models/openai_model"):
        (folder / "venvs" / part).mkdir(parents=True)
        (folder / "venvs" / part / ".venv").symlink_to(python.parent.parent)
    with socket.create_server(("127.0.0.1", 0)) as free:
        head = free.getsockname()[1]
    configs = [f"resources_servers/{name}/configs/{name}.yaml" for name in names]
    configs.append("responses_api_models/openai_model/configs/openai_model.yaml")
    command = [
        python.with_name("ng_run"),
        f"+config_paths=[{','.join(configs)}]",
        f"+policy_base_url={endpoint}",
        "+policy_api_key=dummy",
        "+policy_model_name=policy",
        "+head_server.host=127.0.0.1",
        f"+head_server.port={head}",
        f"+uv_venv_dir={folder / 'venvs'}",
        "+skip_venv_if_present=true",
    ]
    environ = {**os.environ, "GYMCORE_MARK": mark, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    environ |= {"RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "disabled", "NO_PROXY": "127.0.0.1"}
    with (folder / "ng_run.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while "servers ready" not in (said := (folder / "ng_run.log").read_text()).lower():
                if process.poll() is not None:
                    raise SystemExit(said)
                time.sleep(0.5)
            yield head
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for pid in marked(mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def beside_nemo_gym(folder: Path, python: Path, endpoint: str, count: int, data: list[Path]) -> None:
    """Print what a rollout costs on the serving side, ours and theirs."""
    rows = []
    for path in data:
        reference = {"agent_ref": {"name": f"{path.stem}_simple_agent"}}
        rows += [json.loads(line) | reference for line in path.read_text().splitlines()]
    mixed = folder / "mixed.jsonl"
    with mixed.open("w") as file:
        for number in range(count):
            file.write(json.dumps(rows[number % len(rows)] | {"note": number}) + "\n")
    address = f"models.policy.config={{base_url: '{endpoint}'}}"
    with serving(folder, "--data", str(mixed), "--model", "openai_model", "--set", address, "--out", "ours") as served:
        process, url = served
        before = cpu_s(process.pid)
        collect(python, int(url.rpartition(":")[2]), mixed, folder / "out/ours.jsonl")
        ours = (cpu_s(process.pid) - before) / count
    mark = f"GYMCORE_MARK={uuid.uuid4().hex}"
    place = folder / "theirs"
    place.mkdir()
    with ng_run(python, place, endpoint, mark.partition("=")[2]) as head:
        time.sleep(5)  # let it settle
        processes, before, begun = len(marked(mark)), marked_cpu_s(mark), time.perf_counter()
        collect(python, head, mixed, folder / "out/theirs.jsonl")
        used, wall = marked_cpu_s(mark) - before, time.perf_counter() - begun
        before, begun = marked_cpu_s(mark), time.perf_counter()
        time.sleep(wall)
        idle = marked_cpu_s(mark) - before
    theirs = (used - idle) / count
    rewards = {
        name: [json.loads(line)["reward"] for line in (folder / f"out/{name}.jsonl").read_text().splitlines()]
        for name in ("ours", "theirs")
    }
    print(f"beside NeMo Gym: its collector, {count} rows, the same endpoint; CPU on the serving side for a rollout")
    for name, cost, many in (("ours", ours, 1), ("theirs", theirs, processes)):
        print(f"  {name:6} {cost * 1000:6.2f} ms, {many:2} processes, mean reward {statistics.mean(rewards[name]):.3f}")
    print(f"  (what its processes use when idle, {idle / wall * 1000:.0f} ms a second, is taken off)")
    print(f"  {theirs / ours:.1f} times; the goal is 10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--soak", type=int, default=100_000)
    parser.add_argument("--nemo-python", type=Path)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8900/v1")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="rows of NeMo Gym, in files named as their environments"
    )
    parser.add_argument("--trouble", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trouble:
        asyncio.run(trouble(options.trouble))
    with tempfile.TemporaryDirectory(prefix="gymcore-serving-") as scratch:
        folder = Path(scratch)
        path = install_adder(folder)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        start(folder)
        if options.sessions:
            sessions(folder, path, options.sessions)
        if options.soak:
            soak(folder, path, options.soak)
            beside_trouble(folder, path)
        if options.nemo_python:
            beside_nemo_gym(folder, options.nemo_python, options.endpoint, options.rows, options.data)


if __name__ == "__main__":
    main()
