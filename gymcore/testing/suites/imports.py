"""
What happens when a plugin is imported, seen from a fresh interpreter.

This file is also the program of that interpreter: until it has listed the plugins it imports the discovery alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymcore.discovery import Plugin

__all__ = ["HEAVY", "Imported", "import_path", "probe_import"]

HEAVY = frozenset(
    (
        *("anthropic", "cv2", "datasets", "gradio", "IPython", "jax", "keras", "langchain", "litellm", "matplotlib"),
        *("mlflow", "nltk", "openai", "pandas", "peft", "pyarrow", "ray", "scipy", "sentence_transformers", "sklearn"),
        *("spacy", "streamlit", "sympy", "tensorflow", "tokenizers", "torch", "transformers", "trl", "vllm", "wandb"),
    )
)
"""Libraries whose import takes seconds, or hundreds of megabytes."""
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Imported:
    """What importing a plugin did."""

    error: str | None = None
    """Why it could not be imported."""
    imported_by_listing: list[str] = field(default_factory=list)
    printed: str = ""
    cpu_s: float = 0.0
    heavy: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def import_path() -> list[str]:
    """Return where this interpreter imports from, so that another one in another folder imports the same."""
    return [str(Path(entry or ".").absolute()) for entry in sys.path]


def probe_import(plugin: Plugin) -> Imported:
    """Import a plugin in a fresh interpreter, in an empty folder and with an empty home, and return what it did."""
    job = {"path": import_path(), "kind": plugin.kind, "name": plugin.qualified}
    with tempfile.TemporaryDirectory(prefix="gymcore-import-") as folder:
        result = Path(folder, "result.json")
        empty = Path(folder, "empty")
        empty.mkdir()
        home = Path(folder, "home")
        home.mkdir()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        environ |= {"HOME": str(home), "USERPROFILE": str(home)}
        command = [sys.executable, "-P", __file__, json.dumps(job), str(result)]
        try:
            done = subprocess.run(
                command,
                cwd=empty,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Imported(error=f"its import did not end within {TIMEOUT_S:g} s")
        if not result.exists():
            end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            told = done.stderr.decode("utf-8", "replace").strip().splitlines()
            return Imported(error=f"its import ended the interpreter with {end}" + (f": {told[-1]}" if told else ""))
        return Imported(**json.loads(result.read_bytes()))


# -- in the fresh interpreter -----------------------------------------------------------------------------------------

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROCESSES = ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
_NAME_QUERIES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_CHANGES = ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")


class _Witness:
    """Sees what happens while it looks; an audit hook cannot be removed, so it is told when to look."""

    def __init__(self) -> None:
        self.is_looking = False
        self.sockets: list[str] = []
        self.started: list[str] = []
        self.written: list[str] = []

    def look_at_threads(self) -> None:
        """Look at threads that are started; that is no event that every Python tells an audit hook."""
        start = threading.Thread.start

        def started(thread: threading.Thread) -> None:
            if self.is_looking:
                self.started.append(f"a thread at {_place()}")
            start(thread)

        threading.Thread.start = started  # type: ignore[method-assign, assignment]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_looking:
            return
        if event == "socket.__new__" or event in _NAME_QUERIES:
            self.sockets.append(_place())
        elif event in _PROCESSES:
            self.started.append(f"a process at {_place()}")
        elif event in _CHANGES:
            paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
            if paths and not all(map(_is_harmless, paths)):
                what = "the folder" if event == "os.mkdir" else f"{event}()"
                self.written.append(f"{what} {' '.join(paths)} at {_place()}")
        elif event == "sqlite3.connect":
            database = os.fsdecode(arguments[0])
            if database and ":memory:" not in database and not re.search(r"[?&]mode=(memory|ro)\b", database):
                self.written.append(f"the database {database} at {_place()}")
        elif event == "open":
            path, mode, flags = arguments
            is_writing = any(letter in mode for letter in "wax+") if mode else bool((flags or 0) & _WRITING)
            if is_writing and not isinstance(path, int) and not _is_harmless(os.fsdecode(path)):
                self.written.append(f"{os.fsdecode(path)} at {_place()}")


def _is_harmless(path: str) -> bool:
    return "__pycache__" in path or path == os.devnull or bool(re.search(r"\.pyc(\.\d+)?\Z", path))


def _place() -> str:
    """Return `file:line` of the code outside of the standard library that is at work."""
    frame: Any = sys._getframe(2)
    library = os.path.dirname(os.__file__)  # noqa: PTH120, also called while paths are at work
    while frame is not None:
        name = frame.f_code.co_filename
        inside = name.startswith(library) and "site-packages" not in name
        if not inside and not name.startswith("<") and name != __file__:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"


@contextlib.contextmanager
def _captured(into: Path) -> Iterator[None]:
    """Write to a file what anybody prints, in whatever language."""
    saved = [os.dup(1), os.dup(2)]
    with into.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)


def _main(job: dict[str, Any], result: Path) -> None:
    sys.path[:] = job["path"]
    from gymcore.discovery import discover

    plugin = discover().find(job["kind"], job["name"])
    module = plugin.target.partition(":")[0]
    package = module.partition(".")[0]
    own = package if package != "gymcore" else module
    found: dict[str, Any] = {
        "imported_by_listing": [name for name in sys.modules if name == own or name.startswith(f"{own}.")]
    }
    # What a plugin needs of gymcore is there already, and not counted.
    import gymcore
    import gymcore.composition.composer

    for name in gymcore.__all__:
        getattr(gymcore, name)
    witness = _Witness()
    sys.addaudithook(witness)
    witness.look_at_threads()
    modules, threads = set(sys.modules), set(threading.enumerate())
    printed = result.with_name("printed")
    error: str | None = None
    with _captured(printed):
        witness.is_looking = True
        began = time.process_time()
        try:
            importlib.import_module(module)
        except BaseException as raised:  # SystemExit, too
            error = f"{type(raised).__name__}: {raised}"
        cpu_s = time.process_time() - began
        witness.is_looking = False
    new = {name.partition(".")[0] for name in set(sys.modules) - modules}
    started = [f"the thread {thread.name!r}" for thread in set(threading.enumerate()) - threads]
    found.update(
        error=error,
        printed=printed.read_bytes().decode("utf-8", "replace"),
        cpu_s=cpu_s,
        heavy=sorted(new & HEAVY),
        sockets=witness.sockets,
        started=started + witness.started,
        written=witness.written,
    )
    if error is not None:  # one finding is enough
        found["printed"] = ""
    half = result.with_suffix(".half")
    half.write_text(json.dumps(found))
    half.rename(result)
    os._exit(0)  # without waiting for whatever it has started


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), Path(sys.argv[2]))
