"""
The pages of the documentation: what they tell a reader to do is done here, and what they show is compared.

    python tests/docs/pages.py --write docs/tutorial/your-first-environment.md

runs a page and puts what was really printed below its commands. `docs/contributing.md` describes the conventions:
which blocks are run, `<!-- setup: NAME -->`, `<!-- file: PATH -->` and `<!-- printed -->`.
Each page has a scratch folder and a small virtual environment of its own, so it may install things.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gymcore.testing import LoopbackEndpoint, calls, says, slow, status

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
SHOWN_ENDPOINT = "http://127.0.0.1:8000/v1"
"""The address that pages print for an endpoint; the setups put the one that really listens in its place."""
SHOWN_JUDGE = "http://127.0.0.1:8001/v1"
"""The same for an endpoint of judges."""
SHOWN_FILES = "http://127.0.0.1:8002"
"""The same for a server of files."""
COMMAND_TIMEOUT_S = 60.0


# -- what is on a page -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what the page shows below it."""

    text: str
    shown: tuple[str, ...]
    line: int
    """One-based line of the first line of the command."""
    end: int
    """One-based line after the last line that belongs to it."""


@dataclass(frozen=True)
class Block:
    """One fenced block, with the comment that stands directly above it."""

    language: str
    text: str
    line: int
    """One-based line of the first line inside the fence."""
    note: tuple[str, str] | None = None
    """The comment, as its word and what follows: `("file", "dice/gym.yaml")`."""

    def commands(self) -> Iterator[Command]:
        """Take a console block apart: `$ ` begins a command, `> ` continues it, everything else was printed."""
        lines = self.text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            first_shown = start + 1
            while first_shown < end and lines[first_shown].startswith("> "):
                first_shown += 1
            text = "\n".join(line[2:] for line in lines[start:first_shown])
            yield Command(text, tuple(lines[first_shown:end]), self.line + start, self.line + end)


_NOTE = re.compile(r"<!-- (setup|file|printed):? ?(.*?) ?-->\s*\Z")
_FENCE = re.compile(r"(`{3,})([a-z]*)\s*\Z")


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page and its setup comments, in order; a setup is a block without text."""
    found: list[Block] = []
    note: tuple[str, str] | None = None
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        fence, comment = _FENCE.match(line), _NOTE.match(line)
        if fence:
            inside = []
            for _, inner in lines:
                if inner.startswith(fence[1]):
                    break
                inside.append(inner)
            found.append(Block(fence[2], "\n".join(inside), number + 1, note))
            note = None
        elif comment and comment[1] == "setup":
            found.append(Block("", "", number, ("setup", comment[2])))
        elif comment:
            note = (comment[1], comment[2])
        elif line.strip():
            note = None
    return found


# -- comparing -------------------------------------------------------------------------------------------------------

_VARYING = (
    (re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)? ?(?:ms|s|min|h|MB)\b"), "TIME"),
    (re.compile(r"\d[\d,.]* rollouts/s"), "RATE"),
    (re.compile(r"[\d,]+ (?=rollouts are (?:still owed|finished already)|in flight may)"), "N "),
    (re.compile(r"─+"), "─"),
    (re.compile(r"\s+"), " "),
)


def normalised(line: str) -> str:
    """Return a line without what differs between two runs: durations, rates and the widths of columns."""
    for pattern, replacement in _VARYING:
        line = pattern.sub(replacement, line)
    return line.strip()


def matches(shown: tuple[str, ...] | list[str], printed: str) -> bool:
    """Whether a page shows what was printed; `...` stands for any part of a line or, alone, for any lines."""
    pattern = ""
    for line in shown:
        text = normalised(line)
        if text == "...":
            pattern += r"(?:[^\n]*\n)*"
        elif text:
            pattern += ".*".join(re.escape(part) for part in text.split("...")) + "\n"
    lines = [normalised(line) for line in printed.splitlines()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines if line)) is not None


# -- setups ----------------------------------------------------------------------------------------------------------


def _example_rows() -> dict[str, dict[str, Any]]:
    """Return the example rows of the bundled environments by their user message."""
    rows = {}
    for package in ("gym_plugin_example_single_tool_call", "gym_plugin_example_multi_step"):
        for line in files(package).joinpath("data/example.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["responses_create_params"]["input"][-1]["content"]] = row
    return rows


def _heard(body: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the last user message and every tool result of a request to either API."""
    items = body.get("input", body.get("messages"))
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    said = [item["content"] for item in items if item.get("role") == "user"]
    results = [item.get("output", item.get("content")) for item in items if _is_result(item)]
    return (str(said[-1]) if said else "", results)


def _is_result(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "function_call_output" or item.get("role") == "tool"


def a_policy() -> Callable[[dict[str, Any]], Any]:
    """Answer as a middling model would: good at the weather, out of breath after three lookups of synonyms."""
    rows = _example_rows()

    def answer(body: dict[str, Any]) -> Any:
        said, outputs = _heard(body)
        row = rows.get(said)
        if row is None:
            return says("I would rather not say.")
        if "city" in row:
            return says("It is cold there.") if outputs else calls("get_weather", city=row["city"])
        wanted = row["expected_synonyms"][:3]
        if len(outputs) < len(wanted):
            return calls("get_synonym_value", synonym=wanted[len(outputs)])
        if len(outputs) == len(wanted):
            values = [json.loads(output)["synonym_value"] for output in outputs]
            return calls("extract_synonym_values", synonym_values=values)
        return says("Those are the values.")

    return answer


def _serve(page: Scratch, policy: Callable[[dict[str, Any]], Any]) -> None:
    page.replaced[SHOWN_ENDPOINT] = page.stack.enter_context(LoopbackEndpoint(policy)).base_url


def _endpoint(page: Scratch) -> None:
    """An endpoint that plays the example tasks, most of them well."""
    _serve(page, a_policy())


def _slow_endpoint(page: Scratch) -> None:
    """The same, with an answer only after a while."""
    policy = a_policy()
    _serve(page, lambda body: slow(0.1, policy(body)))


def _refusing_endpoint(page: Scratch) -> None:
    """An endpoint that knows another key."""
    _serve(page, lambda body: status(401, {"error": {"message": "Incorrect API key provided"}}))


def _flaky_endpoint(page: Scratch) -> None:
    """An endpoint that cannot answer whoever asks about Kyoto."""
    policy = a_policy()
    _serve(page, lambda body: status(400) if "Kyoto" in str(body["input"]) else policy(body))


def _judge(page: Scratch) -> None:
    """An endpoint that says whether an answer holds the reference, where both stand between tags of their names."""

    def judge(body: dict[str, Any]) -> Any:
        asked, _ = _heard(body)
        parts = dict(re.findall(r"<(reference|answer)>(.*?)</\1>", asked, re.S))
        is_right = parts.get("reference", "?").strip().casefold() in parts.get("answer", "").casefold()
        return says("yes" if is_right else "no")

    page.replaced[SHOWN_JUDGE] = page.stack.enter_context(LoopbackEndpoint(judge)).base_url


def _files(page: Scratch) -> None:
    """A server of the files that lie in the folder of the page."""
    handler = partial(_QuietFiles, directory=str(page.work))
    server = page.stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
    page.stack.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page.replaced[SHOWN_FILES] = f"http://127.0.0.1:{server.server_port}"


class _QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


SETUPS: Mapping[str, Callable[[Scratch], None]] = {
    "endpoint": _endpoint,
    "slow endpoint": _slow_endpoint,
    "refusing endpoint": _refusing_endpoint,
    "flaky endpoint": _flaky_endpoint,
    "judge": _judge,
    "files": _files,
}


# -- running ---------------------------------------------------------------------------------------------------------

_SCRIPTS = {
    "gym": "import sys\nfrom gymcore.cli import main\nmain()",
    "gymcore": "import sys\nfrom gymcore.cli import main\nmain()",
    "pytest": "import sys\nimport pytest\nsys.exit(pytest.main())",
    # What a page installs, it installs as a reader does; only that nothing is fetched from a package index.
    "pip": (
        "import runpy, sys\n"
        "if sys.argv[1:2] in (['install'], ['wheel']):\n"
        "    sys.argv += ['--no-index', '--no-deps', '--no-build-isolation', '-q', '--disable-pip-version-check']\n"
        "runpy.run_module('pip', run_name='__main__')"
    ),
}

_FORKED = """
import json, os, resource, signal, socket, sys
limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
with socket.socket(socket.AF_UNIX) as door, door.makefile("rb") as answers:
    door.connect({door!r})
    told = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environ": dict(os.environ), "prefix": {prefix!r}}}
    told |= {{"limit": None if limit == resource.RLIM_INFINITY else limit, "timeout_s": 600}}
    socket.send_fds(door, [json.dumps(told).encode() + b"\\n"], [0, 1, 2])
    process = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(process, number))
    code = json.loads(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""

_PYTHON_DRIVER = """
import ast, asyncio, contextlib, inspect, io, json, sys, traceback
channel, namespace = sys.stdout, {"__name__": "__main__"}
for request in sys.stdin:
    name, line, source = json.loads(request)
    printed, problem = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            code = compile("\\n" * (line - 1) + source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)
            if inspect.iscoroutine(result):
                asyncio.run(result)
    except BaseException:
        problem = traceback.format_exc()
    channel.write(json.dumps([printed.getvalue(), problem]) + "\\n")
    channel.flush()
"""


@dataclass
class Scratch:
    """Where one page is run: a folder, a virtual environment, one shell and one Python."""

    folder: Path
    stack: ExitStack
    door: Path | None = None
    """Where a Python listens off which `gym` is forked, see `tests/forking.py`; without it, each `gym` is started."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Texts of the page, and what stands in their place when it is run."""

    def __post_init__(self) -> None:
        self._bin = self._make_environment(self.folder / "venv")
        self.work = self.folder / "work"
        self.work.mkdir()
        self._code = 0
        self._bash: subprocess.Popen[str] | None = None
        self._python: subprocess.Popen[str] | None = None

    def _make_environment(self, venv: Path) -> Path:
        """Make a virtual environment that sees everything the test interpreter sees, without copying it."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        site = next((venv / "lib").glob("python*")) / "site-packages"
        (site / "of_the_tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        for name, code in _SCRIPTS.items():
            script = venv / "bin" / name
            script.write_text(f"#!{venv}/bin/python\n{code}\n")
            if name in ("gym", "gymcore") and self.door is not None:
                forked = _FORKED.format(door=str(self.door), prefix=str(venv))
                script.write_text(f"#!{venv}/bin/python -IS\n{forked}")
            script.chmod(0o755)
        return venv / "bin"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of what a page runs: nothing of the developer's, and no way out but loopback."""
        nowhere = "http://127.0.0.1:9"
        return {
            "PATH": f"{self._bin}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "PYTHONUTF8": "1",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def run(self, command: str) -> tuple[str, int]:
        """Run a command in the page's shell and return what it printed, stderr included, and its exit code."""
        if self._bash is None:
            self._bash = self._start(["bash", "--noprofile", "--norc"])
        end = f"end-{uuid.uuid4().hex}"
        text = self.as_run(command)
        # `$?` is the exit code of the page's last command, as in the reader's shell.
        script = f"{{ (exit {self._code})\n{text}\n}} </dev/null\nprintf '\\n%s %s\\n' {end} $?\n"
        lines = self._ask(self._bash, script, end, command)
        self._code = int(lines.pop().split()[1])
        return self.as_shown("".join(lines)), self._code

    def run_python(self, block: Block, name: str) -> str:
        """
        Run a Python block in the page's one namespace and return what it printed.

        Raises:
            AssertionError: it raised.
        """
        if self._python is None:
            self._python = self._start([str(self._bin / "python"), "-c", _PYTHON_DRIVER])
        source = self.as_run(block.text)
        request = json.dumps([name, block.line, source]) + "\n"
        printed, problem = json.loads(self._ask(self._python, request, "[", source)[-1])
        assert not problem, f"{name}:{block.line}: this block raises\n{problem}"
        return self.as_shown(printed)

    def as_run(self, text: str) -> str:
        """Return a text of the page as it is run."""
        for shown, real in self.replaced.items():
            text = text.replace(shown, real)
        return text

    def as_shown(self, text: str) -> str:
        """Return a printed text as the page shows it."""
        for shown, real in self.replaced.items():
            text = text.replace(real, shown)
        return text

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.work,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.stack.callback(_end, process)
        return process

    def _ask(self, process: subprocess.Popen[str], text: str, end: str, command: str) -> list[str]:
        """Send text to a process and read its lines up to and with the first that begins with `end`."""
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
        watch.start()
        try:
            process.stdin.write(text)
            process.stdin.flush()
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(end):
                    return lines
        finally:
            watch.cancel()
        raise AssertionError(f"the process ended, or took {COMMAND_TIMEOUT_S:g} s, in: {command}\n{''.join(lines)}")


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@dataclass(frozen=True)
class Difference:
    """A command or block whose output is not what the page shows."""

    line: int
    end: int
    """The lines of the page that it takes, the command included."""
    command: tuple[str, ...]
    """The lines of the page that stay."""
    shown: tuple[str, ...]
    printed: str

    def __str__(self) -> str:
        shown = "\n".join(self.shown)
        return f"line {self.line}: {' '.join(self.command)}\n-- shown:\n{shown}\n-- printed:\n{self.printed}"


def needs(blocks: list[Block]) -> list[str]:
    """Return the programs and packages that a page needs and that this machine lacks."""
    text = "\n".join(command.text for block in blocks if block.language == "console" for command in block.commands())
    programs = ("jq", "sha256sum", "timeout", "truncate")
    missing = [name for name in programs if re.search(rf"\b{name} ", text) and not shutil.which(name)]
    if re.search(r"--to (?:parquet|skyrl|trl|verl)\b", text) and find_spec("pyarrow") is None:
        missing.append("pyarrow")
    return missing


@contextmanager
def a_door(folder: Path) -> Iterator[Path]:
    """Listen for the commands of pages as long as the `with` block lasts; `folder` has a short name."""
    door = folder / "gym"
    environ = {**os.environ, "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
    environ.pop("PYTHONPATH", None)  # which pages do not see either
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "forking.py"), str(door)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    try:
        yield door
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def run_page(path: Path, folder: Path, door: Path | None = None) -> list[Difference]:
    """
    Do what a page says, from top to bottom.

    Args:
        path: The page.
        folder: An empty folder to do it in.
        door: Where `gym` is forked rather than started; see `a_door`. A page that sends signals starts it all the same.

    Returns:
        Every place where something else was printed than the page shows; a command without output below it may print
        anything.

    Raises:
        AssertionError: a Python block raised, or a command failed without `$ echo $?` below it.
    """
    found: list[Difference] = []
    name = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    printed = ""
    with ExitStack() as stack:
        text = path.read_text(encoding="utf-8")
        page = Scratch(folder, stack, None if re.search(r"\b(?:timeout|kill) ", text) else door)
        for block in blocks_of(text):
            kind, argument = block.note or ("", "")
            if kind == "setup":
                SETUPS[argument](page)
            elif kind == "file":
                target = page.work / argument
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(page.as_run(block.text) + "\n", encoding="utf-8")
            elif kind == "printed":
                shown = tuple(block.text.splitlines())
                if not matches(shown, printed):
                    end = block.line + len(shown)
                    found.append(Difference(block.line, end, (), shown, printed))
            elif block.language == "python":
                printed = page.run_python(block, name)
            elif block.language == "console":
                found.extend(_run_console(page, block, name))
    return found


def _run_console(page: Scratch, block: Block, name: str) -> Iterator[Difference]:
    commands = list(block.commands())
    for command, after in zip(commands, [*commands[1:], None], strict=True):
        printed, code = page.run(command.text)
        is_told = after is not None and after.text == "echo $?"
        assert code == 0 or is_told, f"{name}:{command.line}: {command.text} exits with {code}\n{printed}"
        if any(line.strip() for line in command.shown) and not matches(command.shown, printed):
            kept = tuple(block.text.splitlines()[command.line - block.line :][: len(command.text.splitlines())])
            yield Difference(command.line, command.end, kept, command.shown, printed)


# -- writing ---------------------------------------------------------------------------------------------------------

_PROGRESS = re.compile(r"[\d,]+ / [\d,]+ done")


def as_shown(printed: str) -> list[str]:
    """Return printed lines as a page shows them: without margins, progress as `...`."""
    lines: list[str] = []
    for line in printed.splitlines():
        text = "..." if _PROGRESS.match(line) else line.rstrip()
        is_margin = line != "" and not text  # rich pads its empty lines
        if (not is_margin and text != (lines[-1] if lines else "")) or text not in ("", "..."):
            lines.append(text)
    return lines if lines[-1:] != [""] else lines[:-1]


def write_page(path: Path) -> int:
    """Run a page, put what was printed into it where it shows something else, and return how often."""
    with tempfile.TemporaryDirectory(prefix="gymcore-page-") as folder:
        differences = run_page(path, Path(folder))
    lines = path.read_text(encoding="utf-8").splitlines()
    for item in reversed(differences):
        lines[item.line - 1 : item.end - 1] = [*item.command, *as_shown(item.printed)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run pages of the documentation.")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="Which; all where none is named.")
    parser.add_argument("--write", action="store_true", help="Put what was printed into the pages.")
    options = parser.parse_args()
    for path in options.pages:
        path = path.resolve()
        if options.write:
            print(f"{path.relative_to(ROOT)}: {write_page(path)} places written")
            continue
        with tempfile.TemporaryDirectory(prefix="gymcore-page-") as folder:
            for difference in run_page(path, Path(folder)):
                print(f"{path.relative_to(ROOT)}, {difference}")


if __name__ == "__main__":
    main()
