"""
A new plugin: a complete package, written from the templates beside this file.

They are part of the installed core, so that what they show fits the core that shows it. A template is a text in which
`$name` and its like stand for what differs; `__module__` in a path is the package's name.
"""

from __future__ import annotations

import builtins
import json
import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import gymcore
from gymcore.discovery import Catalog
from gymcore.discovery.catalog import Kind, normalised
from gymcore.discovery.package_files import find_module
from gymcore.errors import RequestError, StorageError

__all__ = ["KINDS", "LICENSES", "Project", "write_project"]

PREFIX = "gym-plugin-"
SUFFIX = ".template"
AUTHOR = re.compile(r"(?=.)(?P<name>[^<>]*[^<>\s])?\s*(?:<(?P<address>[^<>@\s]+@[^<>@\s]+)>)?")
NAME = re.compile(r"[a-z](?:[a-z0-9_-]{0,62}[a-z0-9])?")
NAME_RULE = "a name has small letters, digits, - and _, begins with a letter, ends with no - or _, and has at most 64"


@dataclass(frozen=True)
class _Form:
    """What the packages of one kind have of their own."""

    kind: Kind
    group: str
    description: str
    target: str
    """What the entry point names, below the package."""


_FORMS = {
    "environment": _Form(
        "environment",
        "gymcore.environments",
        "Read a note line by line, and tell how many words it has.",
        "environment:$class_name",
    ),
    "agent": _Form(
        "agent",
        "gymcore.agents",
        "Carry out what the model asks for, and remind it of its task when it says nothing.",
        "agent:$class_name",
    ),
    "model": _Form(
        "model",
        "gymcore.models",
        "Answer from a table of texts to look for; needs no endpoint.",
        "model:$class_name",
    ),
    "hooks": _Form(
        "hook",
        "gymcore.hooks",
        "Write a line of a table for each finished rollout into the run folder.",
        "hooks",
    ),
}
KINDS = tuple(_FORMS)
"""What can be written."""

_LICENSES = {
    "apache-2.0": ("Apache-2.0", "Apache License 2.0"),
    "mit": ("MIT", "MIT License"),
    "bsd-3-clause": ("BSD-3-Clause", "BSD 3-Clause License"),
}
LICENSES = (*_LICENSES, "none")
"""What it can be licensed under."""


@dataclass(frozen=True)
class Project:
    """
    A plugin that is about to be written.

    Attributes:
        kind: One of `KINDS`.
        name: The plugin's name, by which people will choose it.
        license: One of `LICENSES`.
        author: `NAME` or `NAME <ADDRESS>`; the package names nobody where it is None.
    """

    kind: str
    name: str
    license: str = "apache-2.0"
    author: str | None = None

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return PREFIX + self.name.replace("_", "-")

    @property
    def module(self) -> str:
        """What Python calls it."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """What its class is called."""
        return "".join(part.capitalize() for part in re.split(r"[-_]", self.name))

    def check(self, catalog: Catalog) -> None:
        """
        Refuse what would not become a plugin that people can use.

        Args:
            catalog: What is installed.

        Raises:
            RequestError: the name or the author cannot be; with what would be better.
        """
        _check_name(self)
        _check_not_taken(self, catalog)
        if self.author is not None and not (self.author.isprintable() and AUTHOR.fullmatch(self.author.strip())):
            told = "an author is a name, or a name and an address: 'Ada Lovelace <ada@example.org>'"
            raise RequestError(
                told, where="--author", hints=["try: one of them; others can be added to pyproject.toml"]
            )

    def files(self) -> dict[str, str]:
        """Return what the package holds: each path, with `/` between its parts, and its text."""
        form = _FORMS[self.kind]
        templates = files("gymcore.authoring") / "templates"
        values = {
            "name": self.name,
            "distribution": self.distribution,
            "module": self.module,
            "class_name": self.class_name,
            "description": form.description,
            "group": form.group,
            "target": f"{self.module}.{Template(form.target).substitute(class_name=self.class_name)}",
            "floor": ".".join(gymcore.__version__.split(".")[:2]),
            "project_lines": "".join(f"{line}\n" for line in self._project_lines()),
            "license_words": self._license_words(),
            "year": str(date.today().year),
            "holder": self._author[0] or self._author[1] or f"the authors of {self.distribution}",
        }
        found = {path: text for part in ("every", self.kind) for path, text in _texts(templates / part)}
        if self.kind == "environment":
            rows = found["src/__module__/data/example.jsonl"].splitlines()
            values["task"] = json.dumps(json.loads(rows[0]), indent=2, ensure_ascii=False)
            values["rows"] = str(len(rows))
        if self.license != "none":
            found["LICENSE"] = (templates / "licenses" / f"{self.license}{SUFFIX}").read_text(encoding="utf-8")
        return {
            path.replace("__module__", self.module): Template(text).substitute(values) for path, text in found.items()
        }

    @property
    def _author(self) -> tuple[str, str]:
        """The author's name and address, as far as they are known."""
        found = AUTHOR.fullmatch((self.author or "").strip())
        return (found["name"] or "", found["address"] or "") if found else ("", "")

    def _project_lines(self) -> Iterator[str]:
        """Yield the lines of `[project]` that not every project has."""
        if self.license != "none":
            yield f'license = "{_LICENSES[self.license][0]}"'
            yield 'license-files = ["LICENSE"]'
        name, address = self._author
        if name or address:
            known = [("name", name)] if name else []
            known += [("email", address)] if address else []
            yield f"authors = [{{{', '.join(f'{key} = {_quoted(value)}' for key, value in known)}}}]"

    def _license_words(self) -> str:
        if self.license == "none":
            return "No licence has been chosen yet, so nobody else may use it."
        return f"{_LICENSES[self.license][1]}, see `LICENSE`."


def _quoted(text: str) -> str:
    """Return a text as a string of TOML; the text is printable."""
    return json.dumps(text, ensure_ascii=False)


def _texts(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield every template below a folder: the path of what it becomes, and its text."""
    for entry in folder.iterdir():
        name = entry.name.removesuffix(SUFFIX)
        if name.startswith("dot_"):  # a real .gitignore here would hide what is beside it from whoever builds the core
            name = f".{name.removeprefix('dot_')}"
        if entry.is_dir():
            yield from _texts(entry, f"{above}{name}/")
        elif entry.name.endswith(SUFFIX):
            yield above + name, entry.read_text(encoding="utf-8")


# -- names -----------------------------------------------------------------------------------------------------------


def _check_name(project: Project) -> None:
    """
    Refuse names that break the rule, or mean something else to whoever reads them.

    Raises:
        RequestError: with a name that would do.
    """
    name, kind = project.name, project.kind
    if normalised(name).startswith(PREFIX):
        better = _mended(name[len(PREFIX) :])
        raise RequestError(
            f"{PREFIX!r} is put in front of the name by itself",
            where="NAME",
            hints=_try(kind, better) if better else (),
        )
    if not NAME.fullmatch(name):
        better = _mended(name)
        hints = [NAME_RULE, *(_try(kind, better) if better else ())]
        raise RequestError(f"{name!r} is no name for a plugin", where="NAME", hints=hints)
    meaning = _meaning_of(project)
    if meaning is not None:
        raise RequestError(f"{name!r} is {meaning}", where="NAME", hints=_try(kind, f"{name}_{_kind_word(kind)}"))


def _meaning_of(project: Project) -> str | None:
    """Say what a name means already; None where it is free."""
    word, class_name = project.name.replace("-", "_"), project.class_name
    if keyword.iskeyword(word) or keyword.issoftkeyword(word):
        return "a word of the Python language"
    if keyword.iskeyword(class_name) or hasattr(builtins, class_name):
        return f"taken: its class would be called {class_name}, which means something else in Python"
    if word in sys.stdlib_module_names:
        return "a module of Python's standard library, and would be taken for it"
    if word == "gymcore" or class_name in gymcore.__all__:
        return f"a word of gymcore's own, and would be taken for gymcore{'' if word == 'gymcore' else '.' + class_name}"
    if class_name in _imported_names(project.kind):
        return f"taken: its class would be called {class_name}, which its files import from elsewhere"
    return None


def _imported_names(kind: str) -> set[str]:
    """Return the names that the files of a new package import."""
    templates = files("gymcore.authoring") / "templates" / kind
    imports = re.compile(r"^(?:from [\w.]+ )?import (.+)$", re.MULTILINE)
    lines = [line for path, text in _texts(templates) if path.endswith(".py") for line in imports.findall(text)]
    return {name.strip() for line in lines for name in line.split(",")}


def _check_not_taken(project: Project, catalog: Catalog) -> None:
    """
    Refuse names that an installed plugin has.

    Raises:
        RequestError: naming the plugin.
    """
    form = _FORMS[project.kind]
    for plugin in catalog.plugins:
        is_named = plugin.kind == form.kind and normalised(plugin.name) == normalised(project.name)
        if is_named or normalised(plugin.distribution) == normalised(project.distribution):
            raise RequestError(
                f"the {plugin.kind} {plugin.name!r} is installed already, by {plugin.distribution} {plugin.version}",
                where="NAME",
                hints=["try: another name; with two of one name, everybody would have to say which"],
            )
    if find_module(project.module) is not None:
        raise RequestError(
            f"a package {project.module!r} can be imported already, and one of the two would hide the other",
            where="NAME",
            hints=["try: another name"],
        )


def _mended(name: str) -> str | None:
    """Return a good name that is close to a bad one, where there is one."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    plain = re.sub(r"[^a-z0-9_-]+", "_", plain.lower()).lstrip("_-0123456789")[:64].rstrip("_-")
    return plain if NAME.fullmatch(plain) else None


def _try(kind: str, name: str) -> list[str]:
    return [f"try: gym new {kind} {name}"] if NAME.fullmatch(name) else []


def _kind_word(kind: str) -> str:
    return "game" if kind == "environment" else kind


# -- writing ---------------------------------------------------------------------------------------------------------


def write_project(project: Project, folder: Path) -> list[str]:
    """
    Write a plugin into a folder, all of it or nothing.

    Args:
        project: What to write; `Project.check` has let it pass.
        folder: Where to; it is made, or is an empty folder.

    Returns:
        The paths of the files below the folder, sorted.

    Raises:
        RequestError: the folder holds something, or is none.
        StorageError: it cannot be written; then nothing is left there.
    """
    written = project.files()
    _refuse_full(folder)
    absent = [above for above in folder.parents if not above.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that moving it there is one step; hidden, so that nobody takes it for something.
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{project.distribution}-", dir=folder if folder.exists() else folder.parent)
        )
        try:
            made = scratch / "project"
            for path, text in written.items():
                target = made / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8", newline="\n")
            _move(made, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        with suppress(OSError):  # somebody else has put something there meanwhile
            for above in absent:
                if above.exists():
                    above.rmdir()
        raise StorageError(
            f"the package cannot be written: {error.strerror or error}",
            where=str(folder),
            hints=["nothing was left there; try: another folder, with --path FOLDER"],
        ) from None
    return sorted(written)


def _refuse_full(folder: Path) -> None:
    """
    Refuse a folder that is not ours to write.

    Raises:
        RequestError: it holds something, cannot be looked into, or is a file.
    """
    hint = "try: another folder, with --path FOLDER"
    try:
        held = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        if not folder.is_symlink():
            return
        raise RequestError("this is a link that leads nowhere", where=str(folder), hints=[hint]) from None
    except NotADirectoryError:
        raise RequestError("this is a file, and no folder", where=str(folder), hints=[hint]) from None
    except OSError as error:
        told = f"this folder cannot be looked into: {error.strerror}"
        raise RequestError(told, where=str(folder), hints=[hint]) from None
    if held:
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise RequestError(f"the folder is not empty: it holds {shown}", where=str(folder), hints=[hint])


def _move(made: Path, folder: Path) -> None:
    """Put a folder in its place, or, where there is an empty one that somebody may stand in, all that it holds."""
    if not folder.exists():
        made.rename(folder)
        return
    moved: list[Path] = []
    try:
        for entry in sorted(made.iterdir()):
            moved.append(entry.rename(folder / entry.name))
    except BaseException:
        for path in moved:
            with suppress(OSError):
                path.rename(made / path.name)  # removed with the rest
        raise
