"""
Asks the interpreter of a plugin about the plugin, and makes a class that stands for the plugin's here.

Rows and options are checked over there, by the models of its author.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn

from pydantic import BaseModel, Field, SecretStr, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from gymcore import __version__
from gymcore.discovery import Plugin
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.errors import PluginError
from gymcore.interfaces import Tool
from gymcore.interpreters.building import build_interpreter
from gymcore.interpreters.clean_environ import environ_of_interpreter
from gymcore.interpreters.options_json import DescribedConfig
from gymcore.interpreters.stand_in import StandIn
from gymcore.records import Task

__all__ = ["Describer"]

IMPORT_S = 600.0
"""As long as opening an environment may take."""
ANSWER_S = 60.0
KEPT_CHARACTERS = 600


class Describer:
    """
    Asks the interpreter of a plugin about the plugin; a process that is started when it is needed.

    Args:
        plugin: An installed environment, of which nothing is wrong but its requirements.
        environ: Where the cache, and what installers are told, come from.

    Raises:
        PluginError: its virtual environment cannot be built.
        StorageError: the cache cannot be written.
    """

    def __init__(self, plugin: Plugin, environ: Mapping[str, str]) -> None:
        self._plugin = plugin
        self._environ = environ
        self._title = plugin.title
        if plugin.status in ("broken", "incompatible", "blocked"):
            hints = [plugin.hint] if plugin.hint else []
            raise PluginError(f"{self._title} cannot be used: {plugin.problem}", plugin=plugin.qualified, hints=hints)
        self.python = build_interpreter(plugin, environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None
        self._read = bytearray()
        self._end: weakref.finalize[Any, Any] | None = None

    def describe(self) -> type[StandIn]:
        """
        Return the class that stands for the plugin's.

        Raises:
            PluginError: it cannot be imported there.
        """
        told = self.ask(do="describe")
        body = {
            "__doc__": told["documentation"],
            "__module__": self._plugin.target.partition(":")[0],
            "task_model": _task_model(self, told["task"]),
            "config_model": _config_model(self, told["config"]),
            "python": self.python,
            "keeps_route": told["keeps_route"],
            "_has_solution": told["is_solvable"],
            "_takes_other_tools": told["takes_other_tools"],
        }
        described: type[StandIn] = type(told["name"], (StandIn,), body)
        described.tools = {
            tool["name"]: Tool(
                tool["name"], tool["description"], tool["parameters"], tool["method"], BaseModel, tool["in_thread"]
            )
            for tool in told["tools"]
        }
        return described

    def ask(self, **question: Any) -> Any:  # any JSON values
        """
        Ask something, and wait for the answer.

        Raises:
            PluginError: the process over there has ended, or does not answer.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode_json(question) + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._fail("ended")
        return self._answer(ANSWER_S)

    def close(self) -> None:
        """End the process; whoever asks again starts another."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        self._read.clear()

    def _start(self) -> None:
        self._printed = tempfile.TemporaryFile(prefix="gymcore-")  # noqa: SIM115, closed with the process
        try:
            self._process = subprocess.Popen(
                [str(self.python), "-P", "-m", "gymcore.interpreters.inside", self._plugin.target],
                env=environ_of_interpreter(self.python, self._environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                start_new_session=True,  # Ctrl-C is for this process, which then closes its standard input
            )
        except OSError as error:
            self._printed.close()
            raise PluginError(
                f"{self._title}: the Python of its virtual environment cannot be started: {error.strerror}",
                plugin=self._plugin.qualified,
                where=str(self.python),
                hints=[self._way_out()],
            ) from None
        self._end = weakref.finalize(self, _end, self._process, self._printed)
        told = self._answer(IMPORT_S)
        if "failed" in told:
            self.close()
            raise PluginError(
                f"{self._title} could not be imported in its virtual environment: {told['failed']}",
                plugin=self._plugin.qualified,
                where=told["where"],
                hints=[f"its Python: {self.python}", self._way_out()],
            )
        if told["version"] != __version__:
            self.close()
            raise PluginError(
                f"{self._title}: its virtual environment has gymcore {told['version']}, and this is {__version__}",
                plugin=self._plugin.qualified,
            )

    def _answer(self, limit_s: float) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + limit_s
        while (line := self._read.find(b"\n")) < 0:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                self._fail(f"did not answer within {limit_s:g} s")
            data = os.read(descriptor, 1 << 16)
            if not data:
                self._fail("ended")
            self._read += data
        answer = bytes(self._read[:line])
        del self._read[: line + 1]
        try:
            return decode_json(answer)
        except DocumentError as error:
            self._fail(f"answered what is {error.message}")

    def _fail(self, what: str) -> NoReturn:
        assert self._process is not None
        assert self._printed is not None
        if what == "ended":
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5.0)
                what = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._printed.seek(0)
        printed = " ".join(self._printed.read()[-8192:].decode("utf-8", "replace").split())
        plain = "".join(character if character.isprintable() else " " for character in printed)
        self.close()
        raise PluginError(
            f"{self._title} could not be asked about itself: its process {what}",
            plugin=self._plugin.qualified,
            hints=[*([_told(plain)] if plain else []), *([self._way_out()] if "exit code" in what else [])],
        )

    def _way_out(self) -> str:
        return f"if its virtual environment is damaged: delete {self.python.parent.parent.parent}, it is built again"


def _told(printed: str) -> str:
    """Return the end of what a process has printed, or the beginning of what Python says of a crash: there it was."""
    crash = printed.rfind("Fatal Python error")
    if crash >= 0:
        return f"it printed: {printed[crash:][:KEPT_CHARACTERS]}"
    return f"it printed last: {printed[-KEPT_CHARACTERS:]}"


def _end(process: subprocess.Popen[bytes], printed: IO[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    printed.close()


def _raise(answer: Mapping[str, Any], title: str) -> None:
    """Raise what the model over there has raised."""
    if "raised" in answer:
        kind, message = answer["raised"]
        raise type(kind, (Exception,), {})(message)
    if "errors" in answer:
        mistakes = [
            InitErrorDetails(
                type=PydanticCustomError(item["type"], "{told}", {"told": item["msg"]}),
                loc=tuple(item["loc"]),
                input=item["input"],
            )
            for item in answer["errors"]
        ]
        raise ValidationError.from_exception_data(title, mistakes)


def _task_model(describer: Describer, told: Mapping[str, Any]) -> type[Task]:
    class Elsewhere(Task):
        @classmethod
        def model_validate(cls, obj: Any, **how: Any) -> Any:  # as of BaseModel
            _raise(describer.ask(do="task", value=obj), told["name"])
            return Task.model_validate(obj)

    model: type[Task] = _with_fields(told["name"], Elsewhere, dict.fromkeys(told["fields"], (Any, None)))
    return model


def _config_model(describer: Describer, told: Mapping[str, Any]) -> type[DescribedConfig]:
    class Elsewhere(DescribedConfig):
        @classmethod
        def model_validate(cls, obj: Any, **how: Any) -> Any:  # as of BaseModel
            answer = describer.ask(do="config", value=obj)
            _raise(answer, told["name"])
            config = cls.model_construct(**answer["value"]["values"])
            config._written, config._differing = answer["value"]["written"], answer["value"]["differing"]
            return config

    fields: dict[str, Any] = {}
    for name, field in told["fields"].items():
        default = ... if field["is_required"] else field["default"]
        info = Field(default, description=field["description"], json_schema_extra=field["extra"])
        fields[name] = (SecretStr if field["is_secret"] else Any, info)
    model: type[DescribedConfig] = _with_fields(told["name"], Elsewhere, fields)
    return model


def _with_fields(name: str, base: Any, fields: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that shadow something, the author was warned already
        return create_model(name, __base__=base, **fields)
