"""
What runs inside a virtual environment and describes its plugin: a question on each line, an answer on each line.

    python -m gymcore.interpreters.inside TARGET
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import select
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import IO, Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from gymcore import __version__
from gymcore.documents import decode_json, encode_json
from gymcore.interfaces import Config, Environment
from gymcore.interpreters.options_json import config_to_json, holds_secret

__all__ = ["answer", "main"]


def answer(environment: type[Environment[Any, Any]], question: Mapping[str, Any]) -> Any:
    """
    Answer a question about a class.

    Args:
        environment: The class.
        question: `do` says what it is: `describe`, or `config` or `task` with the `value` that is to be checked.

    Returns:
        A plain value.
    """
    match question["do"]:
        case "config":
            return _checked(environment.config_model, question["value"], _options_of)
        case "task":
            return _checked(environment.task_model, question["value"], lambda task: None)
    return {
        "name": environment.__name__,
        "documentation": environment.__doc__,
        "is_solvable": environment.is_solvable(),
        "keeps_route": environment.keeps_route,
        "takes_other_tools": environment.takes_other_tools(),
        "task": {"name": environment.task_model.__name__, "fields": list(environment.task_model.model_fields)},
        "config": {
            "name": environment.config_model.__name__,
            "fields": {name: _field(info) for name, info in environment.config_model.model_fields.items()},
        },
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "method": tool.method,
                "in_thread": tool.in_thread,
            }
            for tool in environment.tools.values()
        ],
    }


def _checked(model: type[BaseModel], value: Any, told: Any) -> dict[str, Any]:
    try:
        return {"value": told(model.model_validate(value))}
    except ValidationError as error:
        return {"errors": [_mistake(item) for item in error.errors(include_url=False, include_context=False)]}
    except Exception as error:  # a validator of the author's
        return {"raised": [type(error).__name__, str(error)]}


def _mistake(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": item["type"],
        "loc": list(item["loc"]),
        "msg": item["msg"],
        "input": to_jsonable_python(item["input"], fallback=repr),
    }


def _options_of(config: Config) -> dict[str, Any]:
    secrets = {name for name, info in type(config).model_fields.items() if holds_secret(info.annotation)}
    return {
        "values": config.model_dump(mode="json", exclude=secrets),
        "differing": config.model_dump(mode="json", exclude_defaults=True, exclude=secrets),
        "written": config_to_json(config),
    }


def _field(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    is_secret = holds_secret(info.annotation)
    default = None
    if not info.is_required() and not is_secret:
        default = to_jsonable_python(info.get_default(call_default_factory=True, validated_data={}), fallback=str)
    return {
        "is_required": info.is_required(),
        "is_secret": is_secret,
        "default": default,
        "description": info.description,
        "extra": {name: extra.get(name) for name in ("environment_variable", "operational")},
    }


def _load(target: str) -> type[Environment[Any, Any]]:
    module, _, name = target.partition(":")
    loaded: Any = importlib.import_module(module)
    for part in name.split("."):
        loaded = getattr(loaded, part)
    if not (isinstance(loaded, type) and issubclass(loaded, Environment)):
        raise TypeError(f"{target} is not a subclass of gymcore.Environment")
    return loaded


def _serve(target: str, questions: IO[bytes], answers: IO[bytes]) -> None:
    def say(value: Any) -> None:
        answers.write(encode_json(value) + b"\n")
        answers.flush()

    try:
        environment = _load(target)
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames[1:] else target
        say({"failed": f"{type(error).__name__}: {error}", "where": where})
        return
    say({"version": __version__})
    for line in questions:
        say(answer(environment, decode_json(line)))


def _end_with_questions(descriptor: int) -> None:
    """End this process when nobody is left to ask, also while a plugin is imported that never ends."""
    poll = select.poll()
    poll.register(descriptor, 0)  # only that the other end is closed
    poll.poll()
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Answer questions about a class until there are no more."""
    faulthandler.enable(all_threads=False)
    threading.Thread(target=_end_with_questions, args=(os.dup(0),), name="gymcore-watch", daemon=True).start()
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a plugin prints is no answer, and what it reads is no question.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _serve(arguments[0], questions, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
