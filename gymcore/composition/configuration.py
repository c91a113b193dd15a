"""
The options of one plugin in one plan: defaults, manifest, plan and environment variables, merged and checked.

Also what of them may be written down: never a secret, and never a value that came out of `${NAME}`.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from gymcore.documents import encode_json
from gymcore.errors import Problem, nearest
from gymcore.interfaces import Config
from gymcore.interpreters.options_json import holds_secret
from gymcore.plan import expand_variables

__all__ = ["OptionOrigin", "Options", "is_reference", "option_origins", "resolve_options"]


@dataclass(frozen=True)
class Options:
    """The options of a plugin, ready to use and ready to write down."""

    config: Config | None
    """The typed options; None where they are wrong."""
    written: dict[str, Any]
    """What a plan file may hold of them: as asked, without secrets."""
    meaning: dict[str, Any]
    """
    What of them decides the meaning of finished work: without secrets and operational options, and with the name of a
    variable, `${NAME}`, in place of what came out of it.
    """
    marks: dict[str, str] = field(default_factory=dict)
    """For each option of `meaning` that came out of a variable, a mark by which another value is noticed."""


def resolve_options(
    model: type[Config],
    defaults: Mapping[str, Any],
    asked: Mapping[str, Any],
    environ: Mapping[str, str],
    where: str,
) -> tuple[Options, list[Problem]]:
    """
    Merge and check the options of one plugin.

    Args:
        model: The plugin's `Config` class.
        defaults: Options its manifest gives.
        asked: Options the plan gives, which win; only here is `${NAME}` replaced.
        environ: Where variables come from.
        where: The key path of the options, for messages.

    Returns:
        The options, and every mistake in them.
    """
    expanded, problems = expand_variables(dict(asked), environ, where)
    values = {**defaults, **expanded}
    references = {name: value for name, value in asked.items() if "${" in str(value)}
    for name, info in model.model_fields.items():
        variable = _extra(info).get("environment_variable")
        if name not in values and variable and environ.get(variable):
            values[name] = environ[variable]
            references[name] = f"${{{variable}}}"
    hidden = {*references, *(name for name, info in model.model_fields.items() if holds_secret(info.annotation))}
    config: Config | None = None
    if not problems:
        try:
            config = model.model_validate(values)
        except ValidationError as error:
            problems = [_explain(item, model, where, hidden) for item in error.errors(include_url=False)]
        except Exception as error:  # a validator of the author's
            problems = [Problem(f"the options cannot be checked: {type(error).__name__}: {error}", where=where)]
    return Options(config, _written(model, asked), *_meaning(model, config, references)), problems


@dataclass(frozen=True)
class OptionOrigin:
    """One option of a plugin, and which layer has set it."""

    name: str
    layer: str
    """`default`, `manifest`, `environment variable`, `plan`, or `not set`."""
    value: Any = None
    """What it says there, where it may be shown."""
    variable: str | None = None
    """The environment variable that it comes from."""
    is_hidden: bool = False
    """Whether its value is not shown: a secret, or what came out of a variable."""


def option_origins(
    model: type[Config], defaults: Mapping[str, Any], asked: Mapping[str, Any], environ: Mapping[str, str]
) -> list[OptionOrigin]:
    """
    Say of each option of a plugin where `resolve_options` takes it from; the arguments are the same.

    A secret is never shown, and of what came out of a variable only its name.
    """
    origins = []
    for name, info in model.model_fields.items():
        variable = _extra(info).get("environment_variable")
        if name in asked or name in defaults:
            layer, given = ("plan", asked[name]) if name in asked else ("manifest", defaults[name])
            origins.append(_shown(name, layer, _writable(info.annotation, given)))
        elif variable and environ.get(str(variable)):
            origins.append(OptionOrigin(name, "environment variable", variable=str(variable), is_hidden=True))
        elif info.is_required():
            origins.append(OptionOrigin(name, "not set", is_hidden=holds_secret(info.annotation)))
        else:
            value = info.get_default(call_default_factory=True, validated_data={})
            origins.append(_shown(name, "default", _open_part(value)))
    return origins


def _shown(name: str, layer: str, value: Any) -> OptionOrigin:
    is_hidden = value is _WITHHELD
    return OptionOrigin(name, layer, None if is_hidden else value, is_hidden=is_hidden)


def _extra(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _holds_more_than_secrets(annotation: Any) -> bool:
    """Whether a value of a type has a part that is no secret."""
    kind, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if not holds_secret(annotation):
        return annotation is not type(None)
    if isinstance(kind, type) and issubclass(kind, Secret | SecretStr | SecretBytes):
        return False
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return any(_holds_more_than_secrets(info.annotation) for info in kind.model_fields.values())
    if isinstance(kind, type) and issubclass(kind, dict):
        inner = inner[1:]
    return any(map(_holds_more_than_secrets, inner))


def is_reference(value: Any) -> bool:
    """Whether a value holds nothing but `${NAME}`, however often."""
    if isinstance(value, dict):
        return all(is_reference(inner) for inner in value.values())
    if isinstance(value, list):
        return all(is_reference(inner) for inner in value)
    if isinstance(value, str):
        return value.startswith("${") and value.endswith("}") and value.count("$") == 1
    return value is None


_WITHHELD: Final = object()
"""Stands for what is secret through and through."""


def _written(model: type[BaseModel], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be written of the values that were asked for the fields of a model."""
    fields = model.model_fields
    parts = {key: _writable(fields[key].annotation, value) for key, value in asked.items() if key in fields}
    return {key: part for key, part in parts.items() if part is not _WITHHELD}


def _writable(annotation: Any, value: Any) -> Any:
    """Return of a value that was asked what is no secret by its type; references to variables are none."""
    if not holds_secret(annotation) or is_reference(value):
        return value
    kind, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        return _written(kind, value) or _WITHHELD
    if isinstance(kind, type) and issubclass(kind, dict) and isinstance(value, dict):
        parts = {key: _writable(inner[-1], item) for key, item in value.items()}
        return {key: part for key, part in parts.items() if part is not _WITHHELD} or _WITHHELD
    models = [item for item in inner if isinstance(item, type) and issubclass(item, BaseModel)]
    if len(models) == 1 and isinstance(value, dict):  # `Model | None`
        return _writable(models[0], value)
    return _WITHHELD  # in a list places count, so it is kept as a whole or not at all


def _open_part(value: Any) -> Any:
    """Return of an option's value what is no secret, as a plain value; defaults inside it are left out."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return _WITHHELD
    if isinstance(value, BaseModel):
        pairs = {
            name: getattr(value, name)
            for name, info in type(value).model_fields.items()
            if getattr(value, name) != info.get_default(call_default_factory=True, validated_data={})
        }
        return _open_part({**pairs, **(value.model_extra or {})}) if pairs or value.model_extra else {}
    if isinstance(value, dict):
        parts = {key: _open_part(item) for key, item in value.items()}
        kept = {key: part for key, part in parts.items() if part is not _WITHHELD}
        return kept if kept or not parts else _WITHHELD
    if isinstance(value, list | tuple | set | frozenset):
        listed = [_open_part(item) for item in value]
        if listed and all(part is _WITHHELD for part in listed):
            return _WITHHELD
        return [None if part is _WITHHELD else part for part in listed]
    return to_jsonable_python(value, fallback=str)


def _meaning(
    model: type[Config], config: Config | None, references: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what of the options decides the meaning of finished work, and the marks of what came out of variables."""
    if config is None:
        return {}, {}
    dumped = config.model_dump(mode="json", exclude_defaults=True)
    meaning, marks = {}, {}
    for name, info in model.model_fields.items():
        if _extra(info).get("operational"):
            continue
        value = dumped.get(name)
        if holds_secret(info.annotation):
            # From the value and not from what was dumped of it: a serialiser of the author's may lay a secret open.
            value = _open_part(getattr(config, name)) if name in dumped else _WITHHELD
        if name in references and _holds_more_than_secrets(info.annotation):
            # What came out of a variable is named, not shown: it may be a secret that nobody typed as one.
            meaning[name] = _writable(info.annotation, references[name])
            marks[name] = _mark(_open_part(getattr(config, name)))
        elif name in dumped and value is not _WITHHELD:
            meaning[name] = value
    return {name: value for name, value in meaning.items() if value is not _WITHHELD}, marks


def _mark(value: Any) -> str:
    """
    Return 16 bits of a value's digest: another value is noticed, but for one in 65,536.

    More would tell whoever reads a lock which of many guesses is right.
    """
    return hashlib.sha256(encode_json(value)).hexdigest()[:4]


def _explain(error: Mapping[str, Any], model: type[Config], where: str, hidden: set[str]) -> Problem:
    path = ".".join(str(part) for part in error["loc"])
    place = f"{where}.{path}" if path else where
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        close = nearest(name, model.model_fields)
        known = ", ".join(model.model_fields) or "none"
        return Problem(
            f"unknown option {name!r}", where=place, hints=(f"try: {close[0]}" if close else f"options: {known}",)
        )
    if error["type"] == "missing":
        info = model.model_fields.get(name)
        variable = _extra(info).get("environment_variable") if info is not None else None
        hint = f"try: --set {place}=..." + (f", or export {variable}=..." if variable else "")
        return Problem(f"the option {name!r} is required", where=place, hints=(hint,))
    if error["type"] == "value_error":
        # The author's own words; they say of the value what may be said.
        return Problem(error["msg"].removeprefix("Value error, "), where=place)
    # Where no single option is meant, the input is all of them, secrets included.
    shown = "" if name in hidden or not name else f", not {error['input']!r:.60}"
    return Problem(f"{error['msg'][0].lower()}{error['msg'][1:]}{shown}", where=place)
