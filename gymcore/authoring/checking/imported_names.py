"""
What the code of a project imports, held against what it requires.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

from gymcore.authoring.checking.findings import Fault, Skip, claim
from gymcore.authoring.checking.project import Project
from gymcore.discovery.catalog import normalised

__all__ = ["imported_modules", "imports_are_declared"]

WITH_GYMCORE = frozenset({"gymcore", "pydantic", "pydantic-core", "typing-extensions"})
"""What stands in gymcore's own interface, and so is there wherever gymcore is."""
_USUAL = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn", "bs4": "beautifulsoup4"}


@claim("source", fix="Add the distribution to `dependencies`, or import it where it may be missing, in a `try`.")
def imports_are_declared(project: Project) -> Iterator[Fault]:
    """
    Every library that the code imports is among the requirements.

    It is installed on the author's machine, and on another one the import ends with ModuleNotFoundError.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if not project.offers:
        raise Skip("no entry point is to be seen: see offers_plugins")
    if "project" not in project.data or "dependencies" in project.dynamic:
        raise Skip("the requirements are made by the build")
    declared = {normalised(project.name), *WITH_GYMCORE}
    for text in (*project.requirements, *project.extras):
        try:
            declared.add(normalised(Requirement(text).name))
        except InvalidRequirement:
            continue
    own = {path.name.removesuffix(".py") for base in project.bases for path in base.iterdir()}
    found: dict[str, str] = {}
    for file, tree in project.code():
        for name, line in imported_modules(tree):
            if name not in own and name not in sys.stdlib_module_names and normalised(name) not in declared:
                found.setdefault(name, project.shown(file, line))
    owners = _owners() if found else {}
    for name, where in found.items():
        provided = [owner for owner in owners.get(name, ()) if normalised(owner) != normalised(project.name)]
        if any(normalised(owner) in declared for owner in provided):
            continue
        if not provided and _may_be_provided(name, declared, owners):
            continue
        wanted = (provided or [_USUAL.get(name, name)])[0]
        yield Fault(
            f"{name!r} is imported, and no requirement brings it",
            where,
            f"Add {wanted!r} to `dependencies` in pyproject.toml, with the oldest version that will do.",
        )


def _owners() -> Mapping[str, list[str]]:
    """Return which distributions bring each module that is installed here."""
    try:
        return metadata.packages_distributions()
    except Exception:  # damaged metadata of somebody else
        return {}


def _may_be_provided(name: str, declared: set[str], owners: Mapping[str, list[str]]) -> bool:
    """Whether a module that is not installed here may come from a requirement that is not installed either."""
    here = {normalised(owner) for found in owners.values() for owner in found}
    plain = normalised(name).replace("-", "")
    if normalised(_USUAL.get(name, name)) in declared:
        return True
    return any(plain in other.replace("-", "") or other.replace("-", "") in plain for other in declared - here)


def imported_modules(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the top of each module that is imported wherever the code runs, and its line."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        elif isinstance(node, ast.Try) and _forgives(node):
            waiting.extend([*node.orelse, *node.finalbody])
        elif isinstance(node, ast.With) and any("suppress" in ast.unparse(item) for item in node.items):
            continue
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _forgives(node: ast.Try) -> bool:
    """Whether a `try` goes on where a library is missing."""
    names = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")
    return any(
        handler.type is None or any(name in ast.unparse(handler.type) for name in names) for handler in node.handlers
    )
