"""
Hook plugins: who is asked, who may refuse, and that one that fails starves nobody else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gymcore import hookimpl
from gymcore.errors import PluginError, RequestError
from gymcore.hookspecs import Observers


class Notes:
    """A hook plugin that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def gym_plan(self, plan: dict[str, Any]) -> None:
        self.heard.append(f"plan {plan}")

    @hookimpl
    def gym_run_start(self, folder: Path, planned: int) -> None:
        self.heard.append(f"start {folder} {planned}")

    @hookimpl
    def gym_rollouts(self, folder: Path, rollouts: Sequence[Any]) -> None:
        self.heard.append(f"rollouts {len(rollouts)}")

    @hookimpl
    def gym_run_finish(self, folder: Path, report: dict[str, Any]) -> None:
        self.heard.append(f"finish {report}")


def tell_everything(observers: Observers) -> None:
    """Tell what happens in a run."""
    observers.plan({"a": 1})
    asyncio.run(observers.run_start(Path("runs"), 3))
    observers.rollouts(Path("runs"), [])
    asyncio.run(observers.run_finish(Path("runs"), {}))


HEARD = ["plan {'a': 1}", "start runs 3", "rollouts 0", "finish {}"]


def test_everybody_hears_everything_in_order() -> None:
    """
    Each plugin is told each event once, as it happens.
    """
    one, two = Notes(), Notes()

    tell_everything(Observers({"dist/one": one, "dist/two": two}))

    assert one.heard == two.heard == HEARD


def test_a_hook_takes_only_the_arguments_it_wants() -> None:
    """
    A new argument of a hook breaks no plugin.
    """
    heard: list[int] = []

    class Short:
        @hookimpl
        def gym_run_start(self, planned: int) -> None:
            heard.append(planned)

    tell_everything(Observers({"dist/short": Short()}))

    assert heard == [3]


def test_a_module_may_hold_the_hooks() -> None:
    """
    An entry point leads to a module or an object; both are asked alike.
    """
    notes = Notes()
    module = SimpleNamespace(gym_plan=notes.gym_plan, unrelated=1)

    tell_everything(Observers({"dist/module": module}))

    assert notes.heard == HEARD[:1]


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
@pytest.mark.parametrize("event", ["gym_run_start", "gym_rollouts", "gym_run_finish"])
def test_an_observer_that_fails_is_switched_off_and_said_once(event: str, error: BaseException) -> None:
    """
    The others hear everything; the one that failed hears nothing more, and one line says so.
    """

    def fail(folder: Path) -> None:
        heard.append("asked")
        raise error

    heard: list[str] = []
    said: list[str] = []
    before, after = Notes(), Notes()
    broken = SimpleNamespace(**{event: hookimpl(fail)})
    observers = Observers({"dist/before": before, "dist/broken": broken, "dist/after": after}, said.append)

    for _ in range(3):
        tell_everything(observers)

    assert heard == ["asked"]
    assert before.heard == after.heard == HEARD * 3
    text = f"{event} raised {type(error).__name__}: {error}"
    assert said == [f"hook dist/broken is switched off for this run: {text}"]
    assert observers.switched_off == ("dist/broken",)


@pytest.mark.parametrize("event", ["gym_run_start", "gym_rollouts", "gym_run_finish"])
def test_an_observer_that_hangs_is_switched_off_and_said_once(event: str) -> None:
    """
    It is waited for as long as a hook may take, and the others hear everything.
    """

    def hang(folder: Path) -> None:
        threading.Event().wait()

    said: list[str] = []
    before, after = Notes(), Notes()
    broken = SimpleNamespace(**{event: hookimpl(hang)})
    plugins = {"dist/before": before, "dist/broken": broken, "dist/after": after}
    observers = Observers(plugins, said.append, limit_s=1.0)

    for _ in range(3):
        tell_everything(observers)

    assert before.heard == after.heard == HEARD * 3
    assert said == [f"hook dist/broken is switched off for this run: {event} did not come back within 1 s"]


def test_what_an_observer_raises_is_told_in_one_line_without_a_password() -> None:
    """
    Exporters talk to servers, and their libraries put whole addresses into long messages of many lines.
    """

    class Talkative:
        @hookimpl
        def gym_rollouts(self) -> None:
            raise OSError(
                "no answer\n  from http://me:hush@there:1/api, for http://hush@there and a@b\n" + "x" * 10_000
            )

    said: list[str] = []
    Observers({"dist/talkative": Talkative()}, said.append).rollouts(Path("runs"), [])

    (line,) = said
    assert "raised OSError: no answer from http://***@there:1/api, for http://***@there and a@b xxx" in line
    assert line.endswith("xxx...")
    assert "hush" not in line
    assert len(line) < 600


def test_a_hook_plugin_is_called_in_one_thread_which_ends_with_the_run() -> None:
    """
    So it may keep what belongs to a thread, such as a database connection.
    """
    threads: set[threading.Thread] = set()

    class Where:
        @hookimpl
        def gym_run_start(self) -> None:
            threads.add(threading.current_thread())

        @hookimpl
        def gym_rollouts(self) -> None:
            threads.add(threading.current_thread())

    observers = Observers({"dist/where": Where()})
    tell_everything(observers)
    del observers

    (thread,) = threads
    thread.join(5)
    assert not thread.is_alive()


def test_a_misspelt_hook_is_refused() -> None:
    """
    The error names the plugin, what it implements, and the hooks there are.
    """

    class Misspelt:
        @hookimpl
        def gym_rollout(self, folder: Path) -> None:
            pass

    with pytest.raises(PluginError, match="dist/oops implements a hook that does not exist") as caught:
        Observers({"dist/oops": Misspelt()})

    assert caught.value.plugin == "dist/oops"
    assert "gym_rollout" in str(caught.value)
    assert "hooks are: gym_plan, gym_run_start, gym_rollouts, gym_run_finish" in str(caught.value)


def test_an_argument_that_no_hook_has_is_refused() -> None:
    """
    A hook with a parameter nobody fills would never be called as meant.
    """

    class Curious:
        @hookimpl
        def gym_run_start(self, folder: Path, model: str) -> None:
            pass

    with pytest.raises(PluginError, match=r"the hooks of dist/curious cannot be used[\s\S]*model") as caught:
        Observers({"dist/curious": Curious()})

    assert caught.value.plugin == "dist/curious"


def test_an_async_hook_is_refused() -> None:
    """
    Nobody would wait for it, so it would silently do nothing.
    """

    class Waits:
        @hookimpl
        async def gym_rollouts(self, folder: Path) -> None:
            pass

    with pytest.raises(PluginError, match="the hook gym_rollouts of dist/waits is an `async def`") as caught:
        Observers({"dist/waits": Waits()})

    assert "try: a plain `def`" in str(caught.value)


def test_a_plan_may_be_refused() -> None:
    """
    What gym_plan raises on purpose is what the person reads.
    """

    class Strict:
        @hookimpl
        def gym_plan(self, plan: dict[str, Any]) -> None:
            raise RequestError("too many rollouts for a Friday")

    with pytest.raises(RequestError, match="too many rollouts for a Friday"):
        Observers({"dist/strict": Strict()}).plan({})


def test_a_hook_that_fails_on_the_plan_is_named() -> None:
    """
    A bug in a hook plugin is the plugin's and not ours; nothing has run yet, so nothing goes on.
    """

    class Broken:
        @hookimpl
        def gym_plan(self, plan: dict[str, Any]) -> None:
            raise KeyError("environments")

    with pytest.raises(PluginError, match="the hook gym_plan of dist/broken raised KeyError: 'environments'"):
        Observers({"dist/broken": Broken()}).plan({})
