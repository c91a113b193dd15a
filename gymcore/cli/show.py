"""
`gym show`: one plugin in full.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

import click

from gymcore.cli.choices import choice_to_dict, choices_of
from gymcore.cli.printable import printable
from gymcore.discovery import Catalog, Plugin, discover
from gymcore.discovery.catalog import KINDS, Kind, split_argument
from gymcore.discovery.manifest import PluginRows
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import GymcoreError, PluginError, RequestError, UnknownPluginError, nearest

__all__ = ["command"]


@click.command("show")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Which kind is meant, where several have the name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
def command(name: str, kind: Kind | None, as_json: bool) -> None:
    """
    Show the plugin NAME: description, options with their defaults, tools, splits, and one task.

    NAME may be `distribution/name` where two distributions offer the same name, and `NAME:ARGUMENT` shows of an
    environment that takes an argument what it is with this one.
    """
    # stdout is for the answer: what the plugin prints while it is imported is talk.
    with redirect_stdout(sys.stderr):
        catalog = discover()
        name, argument = split_argument(name)
        plugin = _find(catalog, name, kind)
        described = _describe(catalog, plugin)
        if plugin.manifest.argument is not None:
            _refuse_argument(catalog, plugin, argument)
            described |= _described_choices(catalog, plugin, argument)
        elif argument is not None:
            raise RequestError(f"{plugin.title} takes no argument", hints=[f"try: gym show {name}"])
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _print(described)


def _find(catalog: Catalog, name: str, kind: Kind | None) -> Plugin:
    for candidate in (kind,) if kind else KINDS:
        try:
            return catalog.find(candidate, name)
        except UnknownPluginError:
            continue
    what = kind or "plugin"
    raise UnknownPluginError(what, name, {plugin.name for plugin in catalog.plugins if kind in (None, plugin.kind)})


def _describe(catalog: Catalog, plugin: Plugin) -> dict[str, Any]:
    described: dict[str, Any] = {**plugin.to_dict(), "documentation": "", "options": []}
    component = catalog.load(plugin)
    if plugin.kind == "hook":
        return described
    described["documentation"] = _paragraphs(component.__doc__)
    described["options"] = _options(component.config_model, plugin)
    if plugin.kind == "environment":
        described["agent"] = plugin.manifest.agent or "simple_agent"
        described["is_solvable"] = component.is_solvable()
        most = component.max_turns
        described["max_turns"] = most if type(most) is int else None  # else each rollout may have its own
        described["tools"] = component.tool_schemas()
        described["takes_other_tools"] = component.takes_other_tools()
        described["splits"] = {name: _count(catalog, plugin, name) for name in plugin.manifest.splits}
        described["splits_from_plugin"] = [
            name
            for name, files in plugin.manifest.splits.items()
            if any(isinstance(file, PluginRows) for file in files)
        ]
        described["task"] = _first_task(catalog, plugin)
    return described


def _refuse_argument(catalog: Catalog, plugin: Plugin, argument: str | None) -> None:
    """
    Hold an argument against the option that it is.

    Raises:
        RequestError: a plan would not take it.
    """
    from pydantic import ValidationError

    option = plugin.manifest.argument
    if argument is None or option is None:
        return
    try:
        catalog.load(plugin).config_model.model_validate({option: argument})
    except ValidationError as error:
        found = [
            item["msg"] for item in error.errors(include_url=False, include_input=False) if item["loc"] == (option,)
        ]
        if found:
            hint = f"try: gym show {plugin.name}"
            raise RequestError(f"{plugin.name} does not take this {option}: {found[0]}", hints=[hint]) from None


def _described_choices(catalog: Catalog, plugin: Plugin, argument: str | None) -> dict[str, Any]:
    """
    Say what may follow the colon of an environment, or what it is with what follows it.

    Raises:
        RequestError: this may not follow.
        GymcoreError: one was asked for, and nobody can tell.
    """
    described: dict[str, Any] = {"argument": plugin.manifest.argument, "choices": [], "choices_problem": None}
    try:
        choices = choices_of(catalog, plugin)
    except GymcoreError as error:
        if argument is not None:
            raise
        return described | {"choices_problem": "; ".join([error.message, *error.hints])}
    if argument is not None and choices:
        close = nearest(argument, [choice.argument for choice in choices if choice.problem is None])
        choices = [choice for choice in choices if choice.argument == argument]
        if not choices:
            hints = [*([f"try: {' or '.join(f'{plugin.name}:{name}' for name in close)}"] if close else [])]
            hints.append(f"try: gym show {plugin.name}, which lists them")
            raise RequestError(f"{plugin.name} has no {plugin.manifest.argument} {argument!r:.100}", hints=hints)
    return described | {"choices": [choice_to_dict(choice) for choice in choices]}


def _paragraphs(documentation: str | None) -> str:
    import inspect

    return inspect.cleandoc(documentation or "")


def _options(model: Any, plugin: Plugin) -> list[dict[str, Any]]:
    """List the options of a plugin; the default is the manifest's where it gives one."""
    schema = model.model_json_schema()
    options = []
    for name, field in schema.get("properties", {}).items():
        entry = {
            "name": name,
            "type": _type_of(field),
            "default": plugin.manifest.config.get(name, field.get("default")),
            "is_required": name in schema.get("required", ()) and name not in plugin.manifest.config,
            "description": field.get("description", ""),
            "environment_variable": field.get("environment_variable"),
        }
        options.append(entry)
    return options


def _type_of(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    if "anyOf" in field:
        return " | ".join(_type_of(inner) for inner in field["anyOf"])
    kind = field.get("format") or field.get("type", "any")
    if kind == "array":
        return f"list of {_type_of(field.get('items', {}))}"
    return str(kind)


def _count(catalog: Catalog, plugin: Plugin, split: str) -> int | None:
    """Count the rows of a split; None where not all of its files are in the package."""
    rows = 0
    for path in plugin.manifest.splits[split]:
        if not isinstance(path, str):
            return None  # to look at a plugin fetches nothing
        try:
            with catalog.open_file(plugin, path) as lines:
                rows += sum(1 for line in lines if line.strip())
        except PluginError:
            return None
    return rows


def _first_task(catalog: Catalog, plugin: Plugin) -> Any:
    for path in (files[0] for files in plugin.manifest.splits.values()):
        try:
            if not isinstance(path, str):
                continue
            with catalog.open_file(plugin, path) as lines:
                for line in lines:
                    if line.strip():
                        return decode_json(line)
        except (PluginError, DocumentError):
            continue
    return None


def _say(text: str = "") -> None:
    """Print a text that others may have written; nothing in it can steer the terminal."""
    for line in text.split("\n"):
        click.echo(printable(line.expandtabs()))


def _print(described: dict[str, Any]) -> None:
    _say(f"{described['kind']} {described['name']}  ({described['distribution']} {described['version']})")
    _say(f"  {described['description']}")
    documentation = described["documentation"]
    if documentation and documentation.splitlines()[0].rstrip(".") != described["description"].rstrip("."):
        _say()
        for line in documentation.splitlines():
            _say(f"  {line}".rstrip())
    if described["status"] != "ok":
        _say(f"  {described['status']}: {described['problem']}")
    if described["kind"] == "environment":
        _print_environment(described)
    _say("\noptions" if described["options"] else "\nno options")
    for option in described["options"]:
        default = (
            "required" if option["is_required"] else f"default {json.dumps(option['default'], ensure_ascii=False)}"
        )
        variable = f", from {option['environment_variable']}" if option["environment_variable"] else ""
        _say(f"  {option['name']}: {option['type']} ({default}{variable})")
        if option["description"]:
            _say(f"      {option['description']}")


def _print_environment(described: dict[str, Any]) -> None:
    solution = "has a reference solution" if described["is_solvable"] else "has no reference solution"
    limit = f", {most} replies at most" if (most := described["max_turns"]) is not None else ""
    _say(f"  played by {described['agent']}{limit}; {solution}")
    _say("\nsplits" if described["splits"] else "\nno splits of its own")
    for name, rows in described["splits"].items():
        unknown = (
            "made by its code" if name in described["splits_from_plugin"] else "a file of it is not in the package"
        )
        _say(f"  {name}: {unknown}" if rows is None else f"  {name}: {rows:,} tasks")
    none = "no tools of its own; its rows bring theirs" if described["takes_other_tools"] else "no tools"
    _say("\ntools" if described["tools"] else f"\n{none}")
    for tool in described["tools"]:
        _say(f"  {tool['name']}: {tool['description']}")
        _say(f"      {json.dumps(tool['parameters'], ensure_ascii=False)}")
    if "choices" in described:
        _print_choices(described)
    if described["task"] is not None:
        _say("\none task")
        for line in json.dumps(described["task"], indent=2, ensure_ascii=False).splitlines():
            _say(f"  {line}")


def _print_choices(described: dict[str, Any]) -> None:
    name, argument = described["name"], described["argument"]
    choices = described["choices"]
    usable = [choice for choice in choices if choice["problem"] is None]
    others = [choice for choice in choices if choice["problem"] is not None]
    count = f": nothing is known against {len(usable)} of {len(choices)}" if len(choices) > 1 else ""
    _say(f"\nplayed as {name}:{argument.upper()}{count}")
    if described["choices_problem"] is not None:
        _say(f"  which ones there are is not known: {described['choices_problem']}")
    for choice in usable:
        _say(f"  {name}:{choice['argument']}")
        if choice["description"]:
            _say(f"      {choice['description']}")
        rows = ", ".join(f"{split} ({rows:,})" for split, rows in choice["splits"].items())
        for what, value in (("splits", rows), *choice["details"].items()):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            if shown not in (None, ""):
                _say(f"      {what.replace('_', ' ')}: {shown}")
    for choice in others:
        _say(f"  not {name}:{choice['argument']}: {choice['problem']}")
