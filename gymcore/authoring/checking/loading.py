"""
Phase 4: each plugin is imported in a process of its own, which may crash, exit, hang or print.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gymcore.authoring.checking.children import run_child
from gymcore.authoring.checking.findings import Fault, Outcome, declare, outcome_of
from gymcore.authoring.checking.place import Place
from gymcore.testing.suites import imports

__all__ = ["check_import"]

IMPORT_S = 60.0
QUICK_CPU_S = 1.0
_LOADED = "gymcore: loaded "

_PROGRAM = f"""\
import json, os, sys
out = os.dup(1)
def say(**told):
    os.write(out, ({_LOADED!r} + json.dumps(told) + "\\n").encode())
    os._exit(0)
from gymcore.discovery import discover
from gymcore.errors import GymcoreError
import gymcore.interfaces
catalog = discover()
try:
    plugin = catalog.find(sys.argv[1], sys.argv[2])
    loaded = catalog.load(plugin)
    if plugin.kind == "hook":
        from gymcore.hookspecs import Observers
        Observers({{plugin.qualified: loaded}})
        if not any(hasattr(getattr(loaded, name, None), "gymcore_impl") for name in dir(loaded)):
            say(error="it answers no hook: nothing in it is marked with @gymcore.hookimpl", where=None, hints=[])
except GymcoreError as error:
    say(error=error.message, where=error.where, hints=error.hints)
say(error=None)
"""


PLUGIN_CAN_BE_LOADED = declare(
    "plugin_can_be_loaded",
    "import",
    "Importing the plugin ends well, and gives a class of its kind, or a module that answers hooks.",
    "A run that names it stops with exit code 4, and an import that exits or crashes would end whoever imports it.",
    "Mend what the import raises; `python -c 'import MODULE'` shows all of it.",
)
HOOKS_IMPORT_QUIETLY = declare(
    "hooks_import_quietly",
    "import",
    "Importing a hook prints nothing, takes less than a second of CPU time, and opens, starts, writes and loads "
    "nothing big; of other plugins the suite says the same, as far as its switches let them.",
    "Every run that names it pays for it before it begins.",
    "Move it into the function that needs it: importing only defines. What a run needs is opened when it starts.",
)


def check_import(kind: str, name: str, distribution: str, place: Place, empty: Path) -> Iterator[Outcome]:
    """Import one plugin in a place, and say what came of it."""
    began = time.perf_counter()
    qualified = f"{distribution}/{name}"
    ended = run_child([str(place.python), "-P", "-c", _PROGRAM, kind, qualified], empty, place.environ, IMPORT_S)
    said = [line.removeprefix(_LOADED) for line in ended.lines if line.startswith(_LOADED)]
    faults = []
    if not said:
        more = "".join(f"\n  {place.words(line)}" for line in ended.last(5))
        fix = "Let nothing exit, crash or wait at import: move it into `open()`, `shared()` or the function it is for."
        faults = [Fault(f"importing the {kind} {name} {_ending(ended.told())}{more}", fix=fix)]
    else:
        told = json.loads(said[-1])
        if told["error"] is not None:
            where = place.words(told["where"]) if told["where"] else None
            faults = [Fault(place.words(told["error"]), where, _remedy(told, place))]
    outcome = outcome_of(
        PLUGIN_CAN_BE_LOADED,
        faults,
        told=f"in {place.told}",
        plugin=name,
        seconds=time.perf_counter() - began,
    )
    yield outcome
    if kind == "hook" and not faults:
        yield _witnessed(kind, name, qualified, place, empty)


def _ending(told: str) -> str:
    return told.replace("ended with", "ends the process with").replace("was ended by", "ends the process by")


def _remedy(told: dict[str, Any], place: Place) -> str | None:
    """Say what to change where an import has raised."""
    error = str(told["error"])
    if "ModuleNotFoundError: No module named " in error:
        missing = error.rpartition("No module named ")[2].strip("'\"").partition(".")[0]
        if place.is_fresh:
            return (
                f"Add the distribution that brings {missing!r} to `dependencies`: nothing that is required brings it."
            )
        return f"Install what brings {missing!r}, and see that it stands among the `dependencies`."
    if "SystemExit" in error:
        return "Let importing never exit: what is for the command line belongs below if __name__ == '__main__'."
    if "not a subclass of" in error:
        return "Let the entry point lead to the class, and the class derive from it."
    hints = [hint for hint in told["hints"] if not hint.startswith("the module")]
    return " ".join(hints) or None


def _witnessed(kind: str, name: str, qualified: str, place: Place, empty: Path) -> Outcome:
    """Look at what importing a hook does besides."""
    began = time.perf_counter()
    path = run_child(
        [str(place.python), "-P", "-c", "import json, sys; print(json.dumps(sys.path))"], empty, place.environ, IMPORT_S
    )
    job = {"path": json.loads(path.lines[-1]) if path.lines else sys.path, "kind": kind, "name": qualified}
    result = empty.with_name(f"{empty.name}-import.json")
    program = [str(place.python), "-P", str(imports.__file__), json.dumps(job), str(result)]
    ended = run_child(program, empty, place.environ, IMPORT_S)
    if not result.exists():
        return Outcome(
            "import", HOOKS_IMPORT_QUIETLY.name, "skipped", f"the interpreter that looks {ended.told()}", name
        )
    seen = imports.Imported(**json.loads(result.read_bytes()))
    result.unlink()
    told = []
    if seen.printed:
        told.append(f"importing it prints {seen.printed[:200]!r}")
    if seen.cpu_s > QUICK_CPU_S:
        told.append(f"importing it takes {seen.cpu_s:.2f} s of CPU time")
    told += [f"importing it loads {', '.join(seen.heavy)}"] if seen.heavy else []
    told += [f"importing it opens a socket: {place.words(item)}" for item in seen.sockets[:1]]
    told += [f"importing it starts {place.words(item)}" for item in seen.started[:1]]
    told += [f"importing it writes {place.words(item)}" for item in seen.written[:1]]
    faults = [Fault(item) for item in told]
    return outcome_of(HOOKS_IMPORT_QUIETLY, faults, plugin=name, seconds=time.perf_counter() - began)
