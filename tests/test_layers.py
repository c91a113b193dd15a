"""
The picture of the layout in the contributors' guide, compared with the real imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gymcore

ROOT = Path(gymcore.__file__).parent

LAYERS = (
    "errors",
    "documents",
    "alarms",
    "compact_keys",
    "own_files",
    "cookie_jar",
    "cache_folder",
    "responses",
    "chat",
    "records",
    "interfaces",
    "hookspecs",
    "plan",
    "run_folder",
    "discovery",
    "interpreters",
    "composition",
    "datasets",
    "runtime",
    "collection",
    "reporting",
    "builtin",
    "doctor",
    "workflow",
    "serving",
    "integrations",
    "testing",
    "authoring",
    "cli",
)
"""From the top: a file imports from files above it, never from files below."""

FORBIDDEN = {
    "runtime": {"collection"},
    "collection": {"composition", "runtime"},
    "builtin": {"hookspecs", "plan", "discovery", "composition", "runtime", "collection", "reporting"},
}
"""Neighbours that must not know each other although the order would allow it."""

CLIENTS = {"httpx", "requests", "aiohttp", "socket", "urllib", "http", "urllib3"}


def _files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _layer(path: Path) -> str:
    """Return the layer of a file; empty for the front door, which is exempt."""
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if part in ("__init__", "__main__") else part


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, also inside functions and for type checkers only, with its line."""
    package = ["gymcore", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module == "gymcore":
                yield from ((f"gymcore.{name.name}", node.lineno) for name in node.names)
            else:
                yield module, node.lineno


def _imported_layers(path: Path) -> Iterator[tuple[str, int]]:
    for module, line in _imports(path):
        parts = module.split(".")
        if parts[0] == "gymcore" and len(parts) > 1:
            # A public name of the front door lives in the layer that its module belongs to.
            home = getattr(gymcore, "_HOME_OF", {}).get(parts[1], f"gymcore.{parts[1]}")
            yield home.split(".")[1], line


def test_every_file_stands_in_the_picture() -> None:
    """
    No layer is missing from the order, and none of the order has gone.
    """
    assert {_layer(path) for path in _files()} - {""} == set(LAYERS)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_files_above_it(path: Path) -> None:
    """
    Data flows one way, and so do imports.
    """
    layer = _layer(path)
    if not layer:
        return
    below = [
        f"{path.name}:{line} imports {other}"
        for other, line in _imported_layers(path)
        if other != layer
        and other in LAYERS
        and (LAYERS.index(other) > LAYERS.index(layer) or other in FORBIDDEN.get(layer, ()))
    ]

    assert below == []


def test_no_file_of_the_core_opens_a_connection_to_an_endpoint() -> None:
    """
    Clients live in plugins; only the loopback endpoint of `gymcore.testing` listens.

    What a run and its workers speak over are two sockets that are born connected and have no address. Data that a plan
    or a manifest pins by address and digest are no endpoint: one module fetches them, with what Python brings.
    """
    pairs = ROOT / "runtime" / "isolation" / "channel.py"
    downloads = ROOT / "composition" / "sources" / "downloads.py"
    allowed = {(pairs, "socket")} | {
        (downloads, name) for name in ("http.client", "urllib.error", "urllib.parse", "urllib.request")
    }
    allowed.add((ROOT / "discovery" / "editable.py", "urllib.parse"))  # takes the address of a folder apart
    # They listen, or look whether who has called is still there.
    allowed |= {(ROOT / path, "socket") for path in ("serving/server.py", "serving/protocol.py", "cli/serve.py")}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in _files()
        if _layer(path) != "testing"
        for module, line in _imports(path)
        if module.split(".")[0] in CLIENTS and (path, module) not in allowed
    ]

    assert found == []


def test_errors_import_the_standard_library_only() -> None:
    """
    Everything may import the errors, so they import nothing.
    """
    foreign = {module.split(".")[0] for module, _ in _imports(ROOT / "errors.py")} - set(sys.stdlib_module_names)

    assert foreign == set()


def test_no_file_is_a_drawer() -> None:
    """
    A module is a noun of the domain: what is called utils belongs to nobody.
    """
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "base", "tools"}

    assert [path for path in _files() if path.stem in drawers] == []


def test_the_front_door_lists_its_names_in_order_and_once() -> None:
    """
    `__all__` is sorted, without twins, and is what `dir()` shows.
    """
    assert list(gymcore.__all__) == sorted(set(gymcore.__all__))
    assert set(dir(gymcore)) == {*gymcore.__all__, "__version__"}
    assert set(gymcore._HOME_OF) == set(gymcore.__all__)


@pytest.mark.parametrize("name", gymcore.__all__)
def test_a_public_name_leads_somewhere_and_is_explained(name: str) -> None:
    """
    Every public name resolves and has a docstring.
    """
    assert name in dir(gymcore)
    value = getattr(gymcore, name)
    documentation = getattr(value, "__doc__", None)

    if name not in ("Solution", "hookimpl"):  # an alias and a marker, which are documented where they are defined
        assert documentation
        assert not documentation.startswith(f"{name}(")  # what a dataclass writes when its author wrote nothing


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    """
    A misspelt import fails as it does for any module.
    """
    with pytest.raises(AttributeError, match="no attribute 'composse'"):
        _ = gymcore.composse  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_module_calls_public_exists(path: Path) -> None:
    """
    Every name in a module's `__all__` is defined in it.
    """
    import importlib

    module = ".".join(["gymcore", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    if module.endswith("__main__"):
        return
    loaded = importlib.import_module(module)

    assert [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)] == []
