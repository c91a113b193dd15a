"""
Phase 1: what a project says of itself, and the files it names. Nothing is built, and nothing of it is imported.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gymcore.authoring.checking.findings import Fault, Outcome, Skip, claim, examine
from gymcore.authoring.checking.project import Offer, Project
from gymcore.discovery.catalog import GROUPS, normalised
from gymcore.discovery.manifest import INTERFACE_VERSIONS, MANIFEST_NAME, Manifest, ManifestError, read_manifest
from gymcore.errors import nearest

__all__ = ["BIG_BYTES", "NAME", "broken_plugins", "check_source", "is_file", "read_manifest_of"]

NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
BIG_BYTES = 10_000_000
"""How much data a wheel should hold, at most."""
_BASES = {"environment": "Environment", "agent": "Agent", "model": "Model"}


def check_source(project: Project) -> Iterator[Outcome]:
    """Make the checks of this phase one by one."""
    from gymcore.authoring.checking.imported_names import imports_are_declared

    yield examine(offers_plugins, project, told=", ".join(f"{offer.kind} {offer.name}" for offer in project.offers))
    for check in (
        names_are_valid,
        targets_are_in_the_source,
        packages_are_named_after_the_distribution,
        manifests_are_valid,
        data_are_there,
        nothing_is_ignored,
        data_are_small,
        gymcore_is_required,
        gymcore_is_not_capped,
        requirements_are_open,
        imports_are_declared,
        python_is_stated,
        layout_is_src,
        types_are_published,
        project_is_described,
        paths_are_not_of_one_machine,
    ):
        yield examine(check, project)


def broken_plugins(outcomes: list[Outcome]) -> set[str]:
    """Return the names of plugins that cannot be loaded, as far as outcomes say so."""
    fatal = {"targets_are_in_the_source", "manifests_are_valid", "wheel_holds_the_manifests", "plugins_are_listed"}
    return {
        finding.plugin
        for outcome in outcomes
        for finding in outcome.findings
        if outcome.check in fatal and finding.plugin
    }


def _offers(project: Project) -> tuple[Offer, ...]:
    if not project.offers:
        raise Skip("no entry point is to be seen: see offers_plugins")
    return project.offers


# -- entry points -----------------------------------------------------------------------------------------------------


@claim(
    "source",
    fix='Add a table such as [project.entry-points."gymcore.environments"] with a line: NAME = "package.module:Class".',
)
def offers_plugins(project: Project) -> Iterator[Fault]:
    """
    The project has a name, and entry points in the groups of gymcore.

    gymcore finds plugins by these groups alone; an entry point in another group is never seen.
    """
    if not project.name:
        yield Fault("the project has no name", project.line("project"), 'Write name = "gym-plugin-..." in [project].')
    is_misspelt = False
    for _, group, _ in project.groups():
        if group not in GROUPS and group.split(".")[0].lower() in ("gymcore", "gym_core", "gym-core"):
            is_misspelt = True
            close = (*nearest(group, GROUPS), *GROUPS)[0]
            yield Fault(
                f"there is no group {group!r}, so nobody finds what is in it",
                project.line(group),
                f"Call it {close!r}; the groups are {', '.join(GROUPS)}.",
            )
    if not project.offers and not is_misspelt:
        if "entry-points" in project.dynamic or ("project" not in project.data and "tool" not in project.data):
            raise Skip("the entry points are made by the build; the wheel will tell")
        yield Fault("there is no entry point in a group of gymcore", project.line("project"))


@claim(
    "source",
    fix="A name begins with a small letter, and has small letters, digits, - and _ besides, at most 64 in all.",
)
def names_are_valid(project: Project) -> Iterator[Fault]:
    """
    Each plugin has a name that can be typed, and no two of a kind have the same one.

    The name is what people write in plans and after `--env`, and what routes of datasets are made of.
    """
    seen: dict[tuple[str, str], Offer] = {}
    for offer in _offers(project):
        if not NAME.fullmatch(offer.name):
            yield Fault(f"{offer.name!r} is no name for a plugin", offer.where, plugin=offer.name)
        other = seen.setdefault((offer.kind, normalised(offer.name)), offer)
        if other is not offer:
            yield Fault(
                f"{offer.name!r} and {other.name!r} are the same name, as names are compared",
                offer.where,
                "Rename one of them; - and _ make no difference.",
                offer.name,
            )


@claim("source", fix="Correct the entry point, or the name of the class, so that they are the same.")
def targets_are_in_the_source(project: Project) -> Iterator[Fault]:
    """
    Each entry point leads to a class that stands in the source, in a package; a hook's to a module.

    A target that is not there is noticed by whoever installs the plugin and chooses it, and by nobody before.
    """
    for offer in _offers(project):
        told = _fault_of_target(project, offer)
        if told is not None:
            yield Fault(*told, plugin=offer.name)


def _fault_of_target(project: Project, offer: Offer) -> tuple[str, str, str | None] | None:
    """Return what is wrong with a target, where, and what to change; None where nothing is."""
    form = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*" + (r"(:[A-Za-z_]\w*)?" if offer.kind == "hook" else r":[A-Za-z_]\w*")
    wanted = "package.module" if offer.kind == "hook" else "package.module:Class"
    if not re.fullmatch(form, offer.target):
        return f"{offer.target!r} is not of the form {wanted}", offer.where, f'Write {offer.name} = "{wanted}".'
    file = project.module_file(offer.module)
    if file is None:
        return f"there is no module {offer.module} in the source", offer.where, None
    if project.package_folder(offer.module) is None:
        told = f"{offer.module} is a single module, and no package, so no {MANIFEST_NAME} can lie beside it"
        return told, offer.where, f"Make it a folder {offer.module}/ with an __init__.py, and put the manifest there."
    mistake = _mistake_in(file)
    if mistake is not None:
        told = f"Python cannot read {project.shown(file)}: {mistake[0]}"
        return told, project.shown(file, mistake[1]), "Correct the line."
    name = offer.target.partition(":")[2]
    if not name:
        return None
    found = _definition(project, offer.module, name)
    if found is None:
        tree = _tree(file)
        others = [node.name for node in tree.body if isinstance(node, ast.ClassDef)] if tree else []
        close = nearest(name, others)
        hint = f"Did you mean {close[0]!r}?" if close else None
        return f"there is no class {name} in {project.shown(file)}", offer.where, hint
    place, node = found
    base = _BASES.get(offer.kind)
    if base is None or node is None:
        return None
    where = project.shown(place, node.lineno)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{name} is a function, and not a subclass of gymcore.{base}", where, f"Write class {name}({base})."
    if isinstance(node, ast.ClassDef) and not node.bases:
        return f"{name} is not a subclass of gymcore.{base}", where, f"Write class {name}({base})."
    return None


def _definition(project: Project, module: str, name: str, depth: int = 0) -> tuple[Path, ast.stmt | None] | None:
    """Find what a module defines under a name, also where it has it from elsewhere; None where there is no such."""
    file = project.module_file(module)
    tree = None if file is None else _tree(file)
    if file is None or tree is None:
        return Path(), None  # not to be read: the import will tell
    is_open = False
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return file, node
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return file, None
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            is_open = True
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            is_open |= alias.name == "*"
            if (alias.asname or alias.name) != name:
                continue
            if not isinstance(node, ast.ImportFrom) or depth > 5:
                return file, None
            package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            if project.module_file(source) is None:
                return file, None
            return _definition(project, source, alias.name, depth + 1)
    return (file, None) if is_open else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those below `if`, `try` and `with`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _mistake_in(file: Path) -> tuple[str, int] | None:
    """Return what Python says of a file that it cannot read, and the line."""
    try:
        ast.parse(file.read_bytes())
    except SyntaxError as error:
        return error.msg, error.lineno or 1
    except (ValueError, OSError) as error:
        return str(error), 1
    return None


def _tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None


@claim("source", fix="Name the package as the distribution, with _ for -.", warns=True)
def packages_are_named_after_the_distribution(project: Project) -> Iterator[Fault]:
    """
    The package is called as the distribution is, with `_` for `-`.

    Two distributions that bring a package of one name overwrite each other without a word; the distribution's name is
    the one that is yours alone.
    """
    wanted = normalised(project.name)
    for package in dict.fromkeys(offer.package for offer in _offers(project)):
        if wanted and normalised(package) != wanted:
            yield Fault(
                f"the package {package} belongs to the distribution {project.name}",
                next(offer.where for offer in project.offers if offer.package == package),
                f"Call it {wanted.replace('-', '_')}, or the distribution {normalised(package)}.",
            )


# -- manifest and data ------------------------------------------------------------------------------------------------


@claim("source", fix=f"Put a {MANIFEST_NAME} beside the class, with at least: gym_api: 1")
def manifests_are_valid(project: Project) -> Iterator[Fault]:
    """
    Beside each class lies a `gym.yaml` without a mistake, for an interface version that this gymcore has.

    It is all that `gym list` and `gym compose` know of a plugin before they import it.
    """
    for offer in _offers(project):
        file = project.manifest(offer)
        if file is None:
            continue  # the target is wrong
        if not file.is_file():
            told = f"there is no {MANIFEST_NAME} beside {offer.module}"
            yield Fault(told, project.shown(file), plugin=offer.name)
            continue
        try:
            manifest = read_manifest(file.read_bytes(), project.shown(file))
        except ManifestError as error:
            for problem in error.problems:
                hint = f"Correct the line; the keys of {MANIFEST_NAME} are told in docs/reference/environments.md."
                yield Fault(problem.message, problem.where, hint, offer.name)
            continue
        if manifest.gym_api not in INTERFACE_VERSIONS:
            offered = " and ".join(map(str, INTERFACE_VERSIONS))
            yield Fault(
                f"it is written for interface version {manifest.gym_api}, and this gymcore offers {offered}",
                f"{project.shown(file)}:{_line(file, 'gym_api')}",
                f"Write gym_api: {max(INTERFACE_VERSIONS)}, or check it with the gymcore it is for.",
                offer.name,
            )


def read_manifest_of(project: Project, offer: Offer) -> tuple[Path, Manifest] | None:
    """Return a plugin's manifest and its place; None where it is not there, or is wrong."""
    file = project.manifest(offer)
    try:
        return None if file is None else (file, read_manifest(file.read_bytes(), str(file)))
    except (OSError, ManifestError):
        return None


def _line(file: Path, text: str) -> int:
    """Return the number of the first line that holds a text; 1 where none does."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((number for number, line in enumerate(lines, start=1) if text in line), 1)


def _data(project: Project) -> Iterator[tuple[Offer, Path, str, Path]]:
    """Yield each data file that a manifest names: the plugin, the manifest, the path, and the file."""
    for offer in _offers(project):
        found = read_manifest_of(project, offer)
        for files in found[1].splits.values() if found else ():
            for path in files:
                if found and isinstance(path, str):
                    yield offer, found[0], path, found[0].parent.joinpath(*path.split("/"))


@claim("source", fix="Put the file there, or correct the path; it counts from the folder of the manifest.")
def data_are_there(project: Project) -> Iterator[Fault]:
    """
    Every file that a manifest names lies in the package.

    A split without its file ends every run that names it.
    """
    for offer, manifest, path, file in _data(project):
        where = f"{project.shown(manifest)}:{_line(manifest, path)}"
        if not is_file(file):
            close = nearest(path, (other.relative_to(manifest.parent).as_posix() for other in _files(manifest.parent)))
            hint = f"Did you mean {close[0]!r}?" if close else None
            yield Fault(f"the data file {path!r} is not there", where, hint, offer.name)
        elif not file.resolve().is_relative_to(manifest.parent.resolve()):
            told = f"the data file {path!r} is a link that leads out of the package"
            yield Fault(told, where, "Put the file itself into the package.", offer.name)
        elif file.stat().st_size == 0:
            yield Fault(
                f"the data file {path!r} is empty", where, "Write a row into it, or drop the split.", offer.name
            )


def is_file(path: Path) -> bool:
    """Whether a file is there, also under a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@claim("source", fix="Take the pattern out of the .gitignore, or add a line below it that begins with !.")
def nothing_is_ignored(project: Project) -> Iterator[Fault]:
    """
    No `.gitignore` hides a manifest, a data file or code of the package.

    Build backends leave out of the wheel what git ignores, and whoever clones the project does not get it either.
    """
    wanted: dict[Path, str] = {file: offer.name for offer, _, _, file in _data(project) if is_file(file)}
    for offer in _offers(project):
        for place in (project.manifest(offer), project.module_file(offer.module)):
            if place is not None and place.is_file():
                wanted.setdefault(place, offer.name)
    git = shutil.which("git")
    if git is None:
        raise Skip("this machine has no git, which could say what its ignore files hide; the wheel will tell")
    for path, rule in _ignored(git, project.root, wanted):
        source, _, pattern = rule.partition("\t")
        told = f"{project.shown(path)} is hidden by the pattern {pattern!r}"
        yield Fault(told, _place_of_rule(project, source), plugin=wanted[path])


def _place_of_rule(project: Project, source: str) -> str:
    file, _, line = source.rpartition(":")
    return project.shown(project.root / file, int(line))


def _ignored(git: str, root: Path, paths: Any) -> Iterator[tuple[Path, str]]:
    """Ask git which files are ignored, and by which line; the settings of whoever runs this do not matter."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    with tempfile.TemporaryDirectory(prefix="gymcore-check-git-") as scratch:
        options = ["-c", "core.quotePath=false", "-c", "core.excludesFile="]
        inside = subprocess.run(
            [git, *options, "rev-parse", "--is-inside-work-tree"],
            cwd=root,
            env=environ,
            capture_output=True,
            check=False,
        )
        if inside.returncode != 0:  # no repository yet: its ignore files are read all the same
            subprocess.run([git, "init", "--quiet", "--bare", scratch], env=environ, capture_output=True, check=False)
            options += ["--git-dir", scratch, "--work-tree", str(root)]
        asked = {os.path.relpath(path, root): path for path in paths}
        done = subprocess.run(
            [git, *options, "check-ignore", "--no-index", "--verbose", "-z", "--stdin"],
            cwd=root,
            env=environ,
            input="\0".join(asked).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    fields = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    for source, line, pattern, path in zip(*(iter(fields),) * 4, strict=False):
        if path in asked and not pattern.startswith("!"):
            yield asked[path], f"{source}:{line}\t{pattern}"


@claim(
    "source",
    fix="Publish the data elsewhere, and name the file in the manifest by its address: "
    "{url: https://..., sha256: ...}, or {huggingface: OWNER/NAME, revision: ...}.",
    warns=True,
)
def data_are_small(project: Project) -> Iterator[Fault]:
    """
    The data of the package come to at most 10 MB.

    Every installation, every image and every worker carries them, whether they are used or not.
    """
    found = {file.resolve(): file for _, _, _, file in _data(project) if is_file(file)}
    size = sum(file.stat().st_size for file in found)
    if size > BIG_BYTES:
        biggest = max(found, key=lambda file: file.stat().st_size)
        told = f"the data files have {size / 1e6:.1f} MB together, most of it in {project.shown(biggest)}"
        yield Fault(told, project.shown(biggest))


# -- requirements -----------------------------------------------------------------------------------------------------


def _specifiers(project: Project, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield what the project asks of a distribution: the requirement, an operator, and a version."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in (*project.requirements, *project.extras):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if normalised(requirement.name) == normalised(name):
            yield text, "", ""
            for specifier in requirement.specifier:
                yield text, specifier.operator, specifier.version


def _require_readable(project: Project) -> None:
    if "project" not in project.data or "dependencies" in project.dynamic:
        raise Skip("the requirements are made by the build")


@claim("source", fix='Write dependencies = ["gymcore>=0.1"], with the oldest version that it works with.')
def gymcore_is_required(project: Project) -> Iterator[Fault]:
    """
    gymcore is among the requirements, with the oldest version that will do, and every requirement can be read.

    Without it an installer takes no gymcore, or one of before the plugin was written, and says nothing.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    _require_readable(project)
    for text in (*project.requirements, *project.extras):
        try:
            Requirement(text)
        except InvalidRequirement as error:
            told = f"the requirement {text!r} cannot be read: {str(error).splitlines()[0]}"
            yield Fault(told, project.line(text), 'Correct it, as in: dependencies = ["numpy>=1.26"]')
    found = list(_specifiers(project, "gymcore"))
    if not found:
        yield Fault("gymcore is not among the requirements", project.line("dependencies", below="project"))
    elif not any(operator in (">=", ">", "~=", "==", "===") for _, operator, _ in found):
        yield Fault(f"{found[0][0]!r} does not say from which version on", project.line(found[0][0]))


@claim(
    "source", fix="Take the upper bound out, as in gymcore>=0.1; `gym_api` in the manifest says what it was made for."
)
def gymcore_is_not_capped(project: Project) -> Iterator[Fault]:
    """
    No upper bound is put on gymcore.

    A bound keeps everybody who installs the plugin from any newer gymcore, also where it would work; a plugin that is
    too old for one is recognised by its `gym_api`, and told apart from one that is broken.
    """
    _require_readable(project)
    for text, operator, version in _specifiers(project, "gymcore"):
        if operator in ("<", "<=", "~=", "==", "==="):
            yield Fault(f"{text!r} lets no gymcore in that is beyond {operator}{version}", project.line(text))


@claim("source", fix="Give a lower bound only, as in numpy>=1.26.", warns=True)
def requirements_are_open(project: Project) -> Iterator[Fault]:
    """
    No requirement names one version only.

    Two plugins that pin a library to different versions cannot be installed together, and so not mixed.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    _require_readable(project)
    for text in (*project.requirements, *project.extras):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        is_pinned = any(item.operator in ("==", "===") and "*" not in item.version for item in requirement.specifier)
        if is_pinned and normalised(requirement.name) != "gymcore":
            yield Fault(f"{text!r} takes one version only", project.line(text))


@claim("source", fix='Write requires-python = ">=3.11" in [project], without an upper bound.', warns=True)
def python_is_stated(project: Project) -> Iterator[Fault]:
    """
    The project says from which Python on it works, at least 3.11, and puts no upper bound on it.

    Without it an installer offers the plugin to a Python on which gymcore does not run.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if "project" not in project.data or "requires-python" in project.dynamic:
        raise Skip("it is made by the build")
    text = project.table.get("requires-python")
    if text is None:
        yield Fault("requires-python is missing", project.line("name", below="project"))
        return
    where = project.line("requires-python")
    try:
        asked = SpecifierSet(str(text))
    except InvalidSpecifier:
        yield Fault(f"requires-python = {text!r} cannot be read", where)
        return
    if any(item.operator in ("<", "<=", "~=", "==", "===") and "*" not in item.version for item in asked):
        yield Fault(f"requires-python = {text!r} keeps newer Pythons out", where)
    elif asked.contains("3.10"):
        yield Fault(f"requires-python = {text!r} lets a Python in on which gymcore does not run", where)


# -- the project ------------------------------------------------------------------------------------------------------


@claim("source", fix="Move the package into a folder src/, and tell the build backend where it is.", warns=True)
def layout_is_src(project: Project) -> Iterator[Fault]:
    """
    The package lies in a folder such as `src/`, and not beside the pyproject.toml.

    Whatever is started in the project's folder imports a package that lies there instead of the installed one, so tests
    pass although the wheel lacks half of it.
    """
    for top in project.top_folders():
        if top.parent.resolve() == project.root:
            told = f"the package {top.name} lies beside the pyproject.toml"
            yield Fault(told, project.shown(top))


@claim("source", fix="Put an empty file py.typed into the package.", warns=True)
def types_are_published(project: Project) -> Iterator[Fault]:
    """
    The package holds a file `py.typed`.

    Without it type checkers take everything in the package for `Any` (https://peps.python.org/pep-0561/).
    """
    _offers(project)
    for top in project.top_folders():
        if top.is_dir() and not (top / "py.typed").is_file():
            yield Fault(f"there is no py.typed in {project.shown(top)}", project.shown(top))


@claim("source", fix="Fill it in in [project].", warns=True)
def project_is_described(project: Project) -> Iterator[Fault]:
    """
    The project has a description, a readme and a licence, and the files that it names are there.

    They are what people see on an index, and without a licence nobody may use it.
    """
    if "project" not in project.data:
        raise Skip("there is no table [project]")
    place = project.line("name", below="project")
    for key in ("description", "readme"):
        if not project.table.get(key) and key not in project.dynamic:
            yield Fault(f"{key} is missing", place)
    has_license = any(project.table.get(key) for key in ("license", "license-files")) or any(
        str(item).startswith("License ::") for item in project.table.get("classifiers") or ()
    )
    if not has_license and "license" not in project.dynamic:
        hint = 'Write license = "Apache-2.0", or another, and put its text into a file LICENSE.'
        yield Fault("license is missing", place, hint)
    readme = project.table.get("readme")
    named = readme.get("file") if isinstance(readme, dict) else readme
    if isinstance(named, str) and not (project.root / named).is_file():
        yield Fault(f"the readme {named!r} is not there", project.line("readme"))


_OF_ONE_MACHINE = re.compile(
    r"(?:file://)?/(?:home|Users|root|mnt|media|scratch|private/var)/[\w.~-]+|[A-Za-z]:\\(?:\\)?[\w.~ -]+"
)


@claim(
    "source",
    fix="Make it an option (`Config`), read a file of the package with `importlib.resources`, or write to a temporary "
    "folder.",
    warns=True,
)
def paths_are_not_of_one_machine(project: Project) -> Iterator[Fault]:
    """
    Neither code nor manifest holds a path such as `/home/me/data`.

    It is there on one machine, and a run on any other ends with a file that cannot be found.
    """
    _offers(project)
    for file, tree in project.code():
        docstrings = set(_docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found = _OF_ONE_MACHINE.match(node.value)
                if found:
                    yield Fault(f"{node.value[:80]!r} is a path of one machine", project.shown(file, node.lineno))
    for offer in project.offers:
        read = read_manifest_of(project, offer)
        for text in _texts({"config": read[1].config}) if read else ():
            if read and _OF_ONE_MACHINE.match(text):
                where = project.shown(read[0], _line(read[0], text))
                yield Fault(f"{text[:80]!r} is a path of one machine", where, plugin=offer.name)


def _docstrings(tree: ast.Module) -> Iterator[int]:
    """Yield what tells the texts apart that nobody uses: docstrings, and those below attributes."""
    for node in ast.walk(tree):
        for part in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else ():
            if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                yield id(part.value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)
