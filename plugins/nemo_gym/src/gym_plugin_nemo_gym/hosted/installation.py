"""
Which resources servers an installed NeMo Gym has, and what their files say of them.

Nothing of NeMo Gym is imported, neither here nor there: its interpreter is only asked where it lies.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gym_plugin_nemo_gym.hosted.host import asked_servers, unset_fields
from gymcore import Choice
from gymcore.documents import DocumentError, parse_yaml
from gymcore.errors import PlanError, Problem, nearest
from gymcore.interpreters.clean_environ import environ_of_interpreter

__all__ = ["HOW_TO_INSTALL", "PYTHON", "SPLITS", "Installation", "ResourcesServer", "find_installation"]

PYTHON = "GYMCORE_NEMO_GYM_PYTHON"
"""The variable that names the interpreter."""
HOW_TO_INSTALL = (
    "try: python3.12 -m venv ~/nemo-gym && ~/nemo-gym/bin/pip install nemo-gym==0.4.0",
    f"then: export {PYTHON}=~/nemo-gym/bin/python",
)
SPLITS = ("example", "train", "validation")
ASKING_S = 60.0
"""How long an interpreter may take to say where something lies; it is mostly the first start that takes long."""

Flavour = Literal["tools", "steps"]
_FLAVOURS: dict[str, Flavour] = {"simple_agent": "tools", "gymnasium_agent": "steps"}

_WHERE = """
import importlib.metadata, importlib.util, json, sys
found = importlib.util.find_spec("nemo_gym")
folders = list(found.submodule_search_locations or ()) if found else []
try:
    version = importlib.metadata.version("nemo-gym")
except importlib.metadata.PackageNotFoundError:
    version = None
print(json.dumps({"folders": folders, "version": version, "python": sys.version.split()[0]}))
"""


@dataclass(frozen=True)
class ResourcesServer:
    """What the files of one of NeMo Gym's resources servers say."""

    name: str
    """That of its folder."""
    folder: Path
    config_file: Path | None = None
    """The YAML in which it stands; None where there is none."""
    instance: str = ""
    """What that calls it."""
    domain: str = ""
    description: str = ""
    agents: tuple[str, ...] = ()
    """Which agents of NeMo Gym play it there."""
    max_steps: int | None = None
    """How often they ask the model, at most."""
    data: Mapping[str, tuple[Path, ...]] | None = None
    """The files of rows that it names, by split; whether they are there is not said."""
    asks: tuple[str, ...] = ()
    """Other servers that it asks, such as judges."""
    unset: tuple[str, ...] = ()
    """Fields of its configuration that its YAML takes from what only NeMo Gym knows, such as an address of a model."""
    fault: str = ""
    """Why its files could not be read."""

    @property
    def requires(self) -> tuple[str, ...]:
        """What it requires besides NeMo Gym, by its requirements.txt."""
        try:
            lines = (self.folder / "requirements.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ()
        wanted = [line.partition(" #")[0].strip() for line in lines]
        return tuple(line for line in wanted if line and line[0] not in "#-" and "nemo-gym" not in line)

    @property
    def flavour(self) -> Flavour | None:
        """How it is played: its tools called one by one, or step by step; None where neither is known to it."""
        return next((_FLAVOURS[agent] for agent in self.agents if agent in _FLAVOURS), None)

    @property
    def objection(self) -> str:
        """Why it cannot be played here; empty where nothing speaks against it."""
        if self.fault:
            return self.fault
        if self.config_file is None:
            return "no YAML of its folder configs speaks of it"
        if self.flavour is None:
            if not self.agents:
                return "its YAML names no agent that plays it"
            return f"it is played by {' and '.join(self.agents)}, whose loop is not played here"
        return ""

    def files(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split that are there."""
        named = (self.data or {}).get(split) or (self.folder / "data" / f"{split}.jsonl",)
        return tuple(path for path in named if path.is_file())

    def rows(self, split: str) -> Iterator[bytes]:
        """Yield the rows of a split."""
        for path in self.files(split):
            with path.open("rb") as file:
                yield from (line for line in file if line.strip())

    def choice(self) -> Choice:
        """Return what a listing says of it."""
        return Choice(
            argument=self.name,
            description=": ".join(part for part in (self.domain, self.description) if part),
            splits={split: sum(1 for _ in self.rows(split)) for split in SPLITS if self.files(split)},
            details={
                "agents": list(self.agents),
                "max_steps": self.max_steps,
                "asks": list(self.asks),
                "unset": list(self.unset),
                "requires": list(self.requires),
            },
            problem=self.objection or None,
        )


@dataclass(frozen=True)
class Installation:
    """Where NeMo Gym is installed."""

    python: Path
    folder: Path
    """What holds its packages: `nemo_gym`, `resources_servers` and others."""
    version: str

    @property
    def names(self) -> list[str]:
        """The names of its resources servers."""
        servers = self.folder / "resources_servers"
        return sorted(file.parent.name for file in servers.glob("*/app.py"))

    def servers(self) -> list[ResourcesServer]:
        """Return every resources server."""
        return [self._read(name, None) for name in self.names]

    def server(self, name: str, config_file: str | None = None, where: str | None = None) -> ResourcesServer:
        """
        Return one that can be played here.

        Args:
            name: That of its folder.
            config_file: Which file of its folder `configs`; the one that is called like it where it is None, or the
                first that speaks of it.
            where: Names the option, for messages.

        Raises:
            PlanError: there is none of that name, or it cannot be played.
        """
        if name not in self.names:
            close = nearest(name, self.names)
            hint = f"try: {' or '.join(close)}" if close else "try: gym show nemo_gym, which lists them"
            told = f"NeMo Gym {self.version} has no resources server {name!r}"
            raise PlanError([Problem(told, where, (hint,))])
        if (
            config_file is not None
            and not (self.folder / "resources_servers" / name / "configs" / config_file).is_file()
        ):
            there = [path.name for path in _config_files(self.folder / "resources_servers" / name)]
            told = f"{name!r} has no configuration {config_file!r}"
            raise PlanError([Problem(told, where, (f"try: {', '.join(there)}",))])
        found = self._read(name, config_file)
        if found.objection:
            hint = "try: gym show nemo_gym, which lists those that can"
            raise PlanError(
                [Problem(f"the resources server {name!r} cannot be hosted: {found.objection}", where, (hint,))]
            )
        return found

    def _read(self, name: str, config_file: str | None) -> ResourcesServer:
        folder = self.folder / "resources_servers" / name
        files = _config_files(folder) if config_file is None else [folder / "configs" / config_file]
        fault = ""
        for file in files:
            try:
                value = parse_yaml(file.read_bytes()).value
            except (OSError, DocumentError) as error:
                fault = fault or f"{file.name} cannot be read: {error}"
                continue
            instances = _mapping(value)
            instance = next(
                (key for key, entry in instances.items() if name in _kind(entry, "resources_servers")), None
            )
            if instance is not None:
                return self._described(folder, file, instance, instances)
        return ResourcesServer(name, folder, fault=fault)

    def _described(self, folder: Path, file: Path, instance: str, instances: dict[str, Any]) -> ResourcesServer:
        own = _mapping(_kind(instances[instance], "resources_servers")[folder.name])
        playing = {
            agent: entry
            for other in instances.values()
            for agent, entry in _kind(other, "responses_api_agents").items()
            if _mapping(_mapping(entry).get("resources_server")).get("name") == instance
        }
        agent = next((name for name in playing if name in _FLAVOURS), next(iter(playing), None))
        entry = _mapping(playing.get(agent)) if agent is not None else {}
        steps = entry.get("max_steps")
        data: dict[str, list[Path]] = {}
        for item in entry.get("datasets") or ():
            if isinstance(path := _mapping(item).get("jsonl_fpath"), str):
                data.setdefault(str(_mapping(item).get("type")), []).append(self.folder / path)
        return ResourcesServer(
            name=folder.name,
            folder=folder,
            config_file=file,
            instance=instance,
            domain=str(own.get("domain") or ""),
            description=" ".join(str(own.get("description") or "").split()),
            agents=tuple(playing),
            max_steps=steps if type(steps) is int and steps > 0 else None,
            data={split: tuple(paths) for split, paths in data.items()},
            asks=tuple(dict.fromkeys(asked_servers(own))),
            unset=tuple(unset_fields(own, instances)),
        )


def _config_files(folder: Path) -> list[Path]:
    """Return the files that configure a server: first the one that is called like it."""
    own = folder / "configs" / f"{folder.name}.yaml"
    others = sorted(path for path in (folder / "configs").glob("*.yaml") if path != own)
    return [own, *others] if own.is_file() else others


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(entry: Any, kind: str) -> dict[str, Any]:
    return _mapping(_mapping(entry).get(kind))


def find_installation(python: str, environ: Mapping[str, str] | None = None, where: str | None = None) -> Installation:
    """
    Ask an interpreter where its NeMo Gym lies.

    Args:
        python: The path of the interpreter.
        environ: The environment of this process.
        where: Names the option, for messages.

    Raises:
        PlanError: it is no interpreter, or has none.
    """
    path = Path(python).expanduser().absolute()

    def refuse(told: str) -> PlanError:
        return PlanError([Problem(told, where, HOW_TO_INSTALL)])

    try:
        done = subprocess.run(
            [str(path), "-P", "-c", _WHERE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASKING_S,
            cwd="/",
            env=environ_of_interpreter(path, os.environ if environ is None else environ),
            check=False,
        )
        found = json.loads(done.stdout)
        folders, version = found["folders"], found["version"]
    except OSError as error:
        raise refuse(f"{path} cannot be run: {(error.strerror or str(error)).lower()}") from None
    except subprocess.TimeoutExpired:
        raise refuse(f"{path} did not answer within {ASKING_S:g} s") from None
    except (ValueError, KeyError, TypeError):
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        raise refuse(f"{path} is no Python that can be asked: {said or 'it said nothing'}") from None
    if not folders:
        raise refuse(f"the Python {path} has no nemo-gym")
    return Installation(path, Path(folders[0]).parent, str(version or "of an unknown version"))
