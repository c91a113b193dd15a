"""
The documentation does what it says: pages are run, links lead somewhere, and every public thing has its place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import click
import pytest

import gymcore
from gymcore import errors
from gymcore.cli import COMMANDS, command_line
from gymcore.hookspecs import Hooks
from gymcore.plan import (
    AgentPlan,
    CheckPlan,
    CollectPlan,
    EnvironmentPlan,
    HubData,
    MixPlan,
    ModelPlan,
    Plan,
    PromptPlan,
    UrlData,
    WarningName,
)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


pages = _load(Path(__file__).parent / "pages.py")
ROOT: Path = pages.ROOT
REFERENCE = ROOT / "docs" / "reference"
EVERY = (*pages.PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "plugins").glob("*/README.md")))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(*paths: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def has_anything_to_run(path: Path) -> bool:
    return any(block.language in ("console", "python") for block in pages.blocks_of(text_of(path)))


# -- pages are run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door() -> Iterator[Path]:
    """
    Where the pages' commands are forked: in a folder of a short name, as the address of a socket must be.
    """
    with tempfile.TemporaryDirectory(prefix="gymcore-door-") as folder, pages.a_door(Path(folder)) as door:
        yield door


@pytest.mark.parametrize("path", [path for path in pages.PAGES if has_anything_to_run(path)], ids=name_of)
def test_what_a_page_shows_is_what_happens(path: Path, tmp_path: Path, door: Path) -> None:
    """
    Its commands and its Python do what is shown below them, from top to bottom, in an empty folder.
    """
    if missing := pages.needs(pages.blocks_of(text_of(path))):
        pytest.skip(f"this machine has no {' and no '.join(missing)}")

    differences = pages.run_page(path, tmp_path, door)

    assert not differences, "\n\n".join(str(item) for item in differences)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["done: 10 rollouts"], "done: 10 rollouts\n"),
        (["p50", " 1 ms"], "p50\n\n   12.5 ms  \n"),
        (["1.000   2 ms   x"], "1.000     345 ms   x\n"),
        (["first", "...", "last"], "first\n5 / 10 done\n9 / 10 done\nlast\n"),
        (["first", "...", "last"], "first\nlast\n"),
        (["wrote ... rows"], "wrote 10 rows\n"),
        (["runs/a: 1,076.7 rollouts/s"], "runs/a: 3 rollouts/s\n"),
    ],
)
def test_takes_for_equal_what_may_differ(shown: list[str], printed: str) -> None:
    """
    Durations, rates, widths, empty lines and what stands for `...` differ between two runs of one page.
    """
    assert pages.matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["done: 10 rollouts"], "done: 11 rollouts\n"),
        (["done"], "done\nand more\n"),
        (["first", "second"], "first\n"),
        (["wrote ... rows"], "wrote 10 columns\n"),
    ],
)
def test_sees_what_may_not_differ(shown: list[str], printed: str) -> None:
    """
    Everything else must be as shown.
    """
    assert not pages.matches(shown, printed)


def test_a_page_that_lies_is_found(tmp_path: Path) -> None:
    """
    What was not printed is reported with its line, and a failure that nobody mentions stops the page.
    """
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo truth\nlies\n$ echo $((1 + 1))\n2\n```\n")

    (found,) = pages.run_page(page, tmp_path / "one")
    page.write_text("```console\n$ false\n```\n")

    assert (found.line, found.shown, found.printed.split()) == (2, ("lies",), ["truth"])
    with pytest.raises(AssertionError, match=r"page\.md:2: false exits with 1"):
        pages.run_page(page, tmp_path / "two")


# -- pages are typed -------------------------------------------------------------------------------------------------

FOR_AUTHORS = (
    "tutorial/your-first-environment.md",
    "how-to/ask-a-judge.md",
    "how-to/bring-big-data.md",
    "how-to/handle-secrets.md",
    "how-to/isolate-an-environment.md",
    "how-to/keep-state.md",
    "how-to/talk-over-several-turns.md",
    "how-to/test-an-environment.md",
    "how-to/version-and-publish-a-plugin.md",
    "how-to/write-a-slow-verifier.md",
    "reference/environments.md",
)


def write_modules(page: Path, folder: Path) -> tuple[list[Path], set[Path]]:
    """
    Write the Python of a page down as modules, each block at its own lines.

    Returns:
        The modules, and the folders from which they are imported. What a page runs between its files is one module,
        for which a rollout without a reward is no matter, as in a test; tests themselves are left out.
    """
    folder.mkdir()
    modules, roots = [], {folder}
    shown = ["# mypy: disable-error-code=union-attr"]
    for block in pages.blocks_of(text_of(page)):
        kind, argument = block.note or ("", "")
        if block.language != "python" or Path(argument).name.startswith("test_"):
            continue
        if kind != "file":
            shown += [""] * (block.line - 1 - len(shown)) + block.text.splitlines()
            continue
        module = folder / argument
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("\n" * (block.line - 1) + block.text + "\n")
        modules.append(module)
        for parent in module.relative_to(folder).parents:
            if any(part.startswith("gym_plugin_") for part in parent.parts):
                (folder / parent / "__init__.py").touch()
            elif any(part.startswith("gym_plugin_") for part in module.parts):
                roots.add(folder / parent)
                break
    if len(shown) > 1:
        module = folder / f"page_{page.stem.replace('-', '_')}.py"
        module.write_text("\n".join(shown) + "\n")
        modules.append(module)
    return modules, roots


def test_what_authors_copy_is_typed(tmp_path: Path) -> None:
    """
    `mypy --strict` accepts the Python of every page for authors.
    """
    modules: list[Path] = []
    roots: set[Path] = set()
    for name in FOR_AUTHORS:
        page = ROOT / "docs" / name
        found, below = write_modules(page, tmp_path / page.stem)
        assert found, f"{name} has no Python"
        modules += found
        roots |= below
    # From here and in our own strict settings, so that what `make check` has found out of gymcore is known already.
    environ = {**os.environ, "MYPYPATH": os.pathsep.join([".", *map(str, roots)])}

    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, modules)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


# -- links and commands ----------------------------------------------------------------------------------------------


def headings_of(path: Path) -> list[str]:
    outside = re.sub(r"^```.*?^```", "", text_of(path), flags=re.M | re.S)
    return re.findall(r"^#+ (.+)$", outside, flags=re.M)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page as GitHub makes them; the second heading of a name gets `-1`."""
    anchors: list[str] = []
    for heading in headings_of(path):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor) is not None for anchor in anchors)
        anchors.append(f"{slug}-{count}" if count else slug)
    return set(anchors)


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """
    Every link inside the repository names a file that is there, and a heading that it has.
    """
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert there.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors_of(there), f"{target}: no such heading in {sorted(anchors_of(there))}"


def test_every_page_can_be_reached() -> None:
    """
    Each page of the documentation is linked from the index.
    """
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", text_of(pages.PAGES[0]))}
    index = ROOT / "docs" / "index.md"
    linked |= {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", text_of(index))}

    assert set((ROOT / "docs").rglob("*.md")) <= linked | {index}


def commands_in(text: str) -> Iterator[str]:
    """Yield every `gym ...` of a text: in blocks as whole commands, in running text what stands in backticks."""
    code = "\n".join(block.text for block in pages.blocks_of(text) if block.language in ("console", "sh"))
    code = re.sub(r"\\\n(?:> )?", " ", code)
    yield from re.findall(r"^(?:\$ |> )?\s*(gym(?:core)? .*)$", code, flags=re.M)
    yield from re.findall(r"(?<!`)`(gym(?:core)? [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    yield from re.findall(r"^    (gym .*)$", text, flags=re.M)


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_names_no_unknown_command_or_option(path: Path) -> None:
    """
    Every `gym ...` in a page is a command with options that it has.
    """
    for text in commands_in(text_of(path)):
        words = shlex.split(re.split(r" [|>]|;|  #", text)[0].replace("...", ""))[1:]
        if words and words[0].startswith("-"):
            assert words[0] in ("--help", "-h", "--version"), text
            continue
        assert words, text
        assert words[0] in COMMANDS, f"there is no command {words[0]!r}: {text}"
        command = command_line.get_command(click.Context(command_line), words[0])
        assert command is not None
        if isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
            command = command.get_command(click.Context(command), words[1])
            assert command is not None, f"there is no command {words[1]!r}: {text}"
        known = {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}
        for word in words[1:]:
            assert not word.startswith("-") or word.partition("=")[0] in known, f"{words[0]} has no {word}: {text}"


@pytest.mark.parametrize("name", ["commands", "conformance", "findings"])
def test_a_page_that_is_generated_is_what_would_be_written(name: str) -> None:
    """
    What commands, suites and checks say of themselves stands in the reference as it is now.
    """
    script = ROOT / "docs" / f"generate_{name}.py"

    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


# -- the reference is complete ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*gymcore.__all__, *(hook for hook in vars(Hooks) if hook.startswith("gym_"))])
def test_every_public_name_and_hook_has_a_heading(name: str) -> None:
    """
    Whoever looks a name up in the reference finds a heading that is it.
    """
    assert any(name in headings_of(path) for path in REFERENCE.glob("*.md")), f"no heading is {name!r}"


@pytest.mark.parametrize(
    "model",
    [Plan, EnvironmentPlan, AgentPlan, ModelPlan, MixPlan, CheckPlan, CollectPlan, HubData, UrlData, PromptPlan],
)
def test_every_key_of_a_plan_is_explained(model: type) -> None:
    """
    `plan.md` has a heading for each key at the top, and a row in a table for each inside.
    """
    page = REFERENCE / "plan.md"
    for key in model.model_fields:  # type: ignore[attr-defined]
        if model is Plan:
            assert key in headings_of(page), f"no heading is {key!r}"
        else:
            assert re.search(rf"^\| `{key}` \| [^|]+ \| [^|]+ \| [^|]+ \|$", text_of(page), flags=re.M), key


@pytest.mark.parametrize("name", get_args(WarningName))
def test_every_warning_is_explained(name: str) -> None:
    """
    `rows.md` has a row for each warning.
    """
    assert f"\n| `{name}` |" in text_of(REFERENCE / "rows.md")


def error_classes() -> list[str]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [item.__name__ for item in found if isinstance(item, type) and issubclass(item, Exception)]


@pytest.mark.parametrize("name", error_classes())
def test_every_error_is_explained(name: str) -> None:
    """
    `errors.md` has a heading for each class of error.
    """
    assert name in headings_of(REFERENCE / "errors.md")


EXIT_CODES = {error.exit_code for error in (errors.GymcoreError, *errors.GymcoreError.__subclasses__())}


@pytest.mark.parametrize("exit_code", sorted(EXIT_CODES))
def test_every_exit_code_is_explained(exit_code: int) -> None:
    """
    `errors.md` has a row for each exit code.
    """
    assert f"\n| {exit_code} |" in text_of(REFERENCE / "errors.md")


@pytest.mark.parametrize("name", ["example_single_tool_call", "example_multi_step"])
def test_the_task_in_a_readme_is_the_first_of_the_data(name: str) -> None:
    """
    A bundled environment shows a task that it really has.
    """
    plugin = ROOT / "plugins" / name
    (data,) = plugin.glob("src/*/data/example.jsonl")
    (shown,) = [block.text for block in pages.blocks_of(text_of(plugin / "README.md")) if block.language == "json"]

    assert json.loads(shown) == json.loads(data.read_text(encoding="utf-8").splitlines()[0])
