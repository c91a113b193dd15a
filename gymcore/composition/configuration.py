"""
The options of one plugin in one plan: defaults, manifest, plan and environment variables, merged and checked.

Also what of them may be written down: never a secret, and never a value that came out of `${NAME}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

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
    """What of them decides the meaning of finished work: without secrets and operational options."""


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
    hidden = {name for name, value in asked.items() if "${" in str(value)}
    for name, field in model.model_fields.items():
        variable = _extra(field).get("environment_variable")
        if name not in values and variable and environ.get(variable):
            values[name] = environ[variable]
            hidden.add(name)
        if holds_secret(field.annotation):
            hidden.add(name)
    config: Config | None = None
    if not problems:
        try:
            config = model.model_validate(values)
        except ValidationError as error:
            problems = [_explain(item, model, where, hidden) for item in error.errors(include_url=False)]
        except Exception as error:  # a validator of the author's
            problems = [Problem(f"the options cannot be checked: {type(error).__name__}: {error}", where=where)]
    written = {key: value for key, value in asked.items() if _may_be_written(model.model_fields.get(key), value)}
    return Options(config, written, _meaning(model, config, asked)), problems


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
    for name, field in model.model_fields.items():
        is_secret = holds_secret(field.annotation)
        variable = _extra(field).get("environment_variable")
        if name in asked:
            may_be_shown = not is_secret or is_reference(asked[name])
            origins.append(
                OptionOrigin(name, "plan", asked[name] if may_be_shown else None, is_hidden=not may_be_shown)
            )
        elif name in defaults:
            value = None if is_secret else defaults[name]
            origins.append(OptionOrigin(name, "manifest", value, is_hidden=is_secret))
        elif variable and environ.get(str(variable)):
            origins.append(OptionOrigin(name, "environment variable", variable=str(variable), is_hidden=True))
        elif field.is_required():
            origins.append(OptionOrigin(name, "not set", is_hidden=is_secret))
        else:
            value = field.get_default(call_default_factory=True, validated_data={})
            shown = None if is_secret else to_jsonable_python(value, fallback=str)
            origins.append(OptionOrigin(name, "default", shown, is_hidden=is_secret))
    return origins


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def is_reference(value: Any) -> bool:
    """Whether a value holds nothing but `${NAME}`, however often."""
    if isinstance(value, dict):
        return all(is_reference(inner) for inner in value.values())
    if isinstance(value, list):
        return all(is_reference(inner) for inner in value)
    if isinstance(value, str):
        return value.startswith("${") and value.endswith("}") and value.count("$") == 1
    return value is None


def _may_be_written(field: FieldInfo | None, value: Any) -> bool:
    return field is not None and (not holds_secret(field.annotation) or is_reference(value))


def _meaning(model: type[Config], config: Config | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    if config is None:
        return {}
    dumped = config.model_dump(mode="json", exclude_defaults=True)
    meaning = {}
    for name, field in model.model_fields.items():
        if name not in dumped or holds_secret(field.annotation) or _extra(field).get("operational"):
            continue
        # What came out of a variable is named, not shown: it may be a secret that nobody typed as one.
        asked_with_variable = name in asked and "${" in str(asked[name])
        meaning[name] = asked[name] if asked_with_variable else dumped[name]
    return meaning


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
        field = model.model_fields.get(name)
        variable = _extra(field).get("environment_variable") if field is not None else None
        hint = f"try: --set {place}=..." + (f", or export {variable}=..." if variable else "")
        return Problem(f"the option {name!r} is required", where=place, hints=(hint,))
    if error["type"] == "value_error":
        # The author's own words; they say of the value what may be said.
        return Problem(error["msg"].removeprefix("Value error, "), where=place)
    # Where no single option is meant, the input is all of them, secrets included.
    shown = "" if name in hidden or not name else f", not {error['input']!r:.60}"
    return Problem(f"{error['msg'][0].lower()}{error['msg'][1:]}{shown}", where=place)
