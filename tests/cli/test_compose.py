"""
`gym compose`: flags and files become one plan, and the plan one dataset.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.cli.plan_options import PlanFlags
from gymcore.errors import PlanError
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

SECRET = "hush-hush-1234567890"


def _plan(**flags: Any) -> Plan:
    text = PlanFlags(**flags).to_plan()
    if text.problems or text.plan is None:
        raise PlanError(text.problems, source=text.source)
    return text.plan


def _written(tmp_path: Path, text: str) -> str:
    (tmp_path / "asked.yaml").write_text(text)
    return str(tmp_path / "asked.yaml")


# -- the command -------------------------------------------------------------------------------------------------------


def test_compose_writes_a_run_folder_and_says_what_went_where(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    A table on stdout, three files on disk, and the next command to type.
    """
    done = gym("compose", "--env", "echo", "--env", "shout", "--limit", "3", "--out", "mix", folder=plugins)

    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "mix").iterdir()} - {".writer"}
    assert written == {"dataset.jsonl", "gym.lock", "plan.yaml"}
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["echo", "example", "echo_simple_agent", "3", "50.00%", "50.00%"]
    assert lines[2] == ["shout", "example", "shout_voice", "3", "50.00%", "50.00%"]
    assert done.stdout.endswith("next: gym run mix\n")


def test_compose_prints_json_and_nothing_else(gym: Gym, plugins: PluginFolder) -> None:
    """
    Talk goes to stderr.
    """
    described = json.loads(gym("compose", "-e", "echo", "--repeats", "2", "--json", folder=plugins).stdout)

    assert (described["rows"], described["rollouts"]) == (5, 10)
    assert described["environments"][0]["route"] == "echo_simple_agent"


def test_without_a_folder_the_plan_names_it(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    The same command goes to the same folder, and another plan to another.
    """
    for arguments in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"]):
        assert gym("compose", "--env", "shout", *arguments, folder=plugins).returncode == 0

    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2
    assert all(name.startswith("shout-") for name in names)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "PlanError: the plan names no environment"),
        (["--env", "ehco"], 2, "try: 'echo'"),
        (["--env", "echo", "--env", "echo"], 2, "the environment 'echo' is named 2 times"),
        (["--env", "echo", "--model", "orcale"], 2, "no model is named 'orcale' (models.policy)"),
        (["--env", "echo", "--agent", "voise"], 2, "no agent is named 'voise'"),
        (["--env", "echo", "--split", "exmaple"], 2, "try: example"),
        (["--env", "echo", "--hook", "wacht"], 2, "no hook is named 'wacht' (hooks.0)"),
        (["--env", "echo", "--hook", "watch", "--seed", "666"], 2, "that seed is taken (mix.seed)"),
        (["--env", "echo", "--set", "environments.echo.limt=1"], 2, "unknown key 'limt'"),
        (["--env", "echo", "--set", "nonsense"], 2, "a setting looks like key.path=value"),
        (["--env", "echo", "--set", "environments.echo.config.name=${NO_NAME}"], 2, "${NO_NAME} is not set"),
        (["--plan", "none.yaml"], 2, "the plan cannot be read: No such file or directory (none.yaml)"),
        (["--data", "none.jsonl"], 2, "the data file cannot be read: No such file or directory (data: none.jsonl)"),
        (["--data", "none.jsonl"], 2, "a path begins in the folder where the command is started"),
        (["--plan", "none.yaml", "--plan", "other.yaml"], 2, "--plan is said 2 times"),
        (["--data", "bad.jsonl"], 2, "bad.jsonl:1: not JSON"),
        (["--env", "echo", "--set", f"environments.echo.config.key=[{SECRET}]"], 2, "environments.echo.config.key"),
        (["--env", "echo", "--split", "missing"], 4, "names the data file 'data/missing.jsonl'"),
        (["--env", "echo", "--out", "bad.jsonl"], 2, "Not a directory"),
        (["--env", "echo", "--out", "bad.jsonl/below"], 2, "Not a directory"),
        (["--env", "echo", "--out", "full"], 2, "the output folder is not empty and holds no run"),
        (["--env", "echo", "--out", "/proc/gymcore"], 2, "RunFolderError: the output folder cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_one_message_and_no_file(
    gym: Gym, plugins: PluginFolder, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """
    The exit code is that of the table, nothing is half written, no secret is shown, and there is no traceback.
    """
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))

    done = gym("compose", *arguments, folder=plugins)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_of_two_distributions_must_be_chosen(gym: Gym, echo_folder: Path, tmp_path: Path) -> None:
    """
    A plan is written with the shortest name that is exact; when a second distribution claims that name later, the plan
    is refused and both are named; `distribution/name` works, and is what is written then.
    """
    files = {
        "acme_echo/__init__.py": "from gymcore import Environment, say\n\nclass Echo(Environment):\n    '''Acme.'''\n\n"
        "    async def solve(self):\n        '''Solve.'''\n        yield say('x')\n",
        "acme_echo/gym.yaml": "gym_api: 1\nsplits: {example: rows.jsonl}\n",
        "acme_echo/rows.jsonl": '{"responses_create_params": {"input": "x"}}\n',
    }
    acme = tmp_path / "acme"
    acme.mkdir()
    PluginFolder(acme).install("acme-echo", files, {"gymcore.environments": {"echo": "acme_echo:Echo"}})
    before = PluginFolder(echo_folder).environ["PYTHONPATH"]
    path = {"PYTHONPATH": f"{acme}{os.pathsep}{before}"}
    asked = ["--env", "gym-plugin-echo/echo", "--agent", "gymcore/simple-agent", "--hook", "gym-plugin-echo/watch"]

    earlier = gym("compose", *asked, "--out", "earlier", PYTHONPATH=before)
    again = gym("compose", "--plan", "earlier/plan.yaml", "--out", "again", **path)
    refused = gym("compose", "--env", "echo", **path)
    chosen = gym("compose", "--env", "acme-echo/echo", "--out", "mix", **path)

    assert earlier.returncode == 0, earlier.stderr
    written = (tmp_path / "earlier" / "plan.yaml").read_text()
    assert "use: echo\n" in written
    assert "use: simple_agent\n" in written
    assert "- watch\n" in written
    assert again.returncode == 2
    assert "2 distributions offer the environment 'echo' (environments.echo, earlier/plan.yaml:2)" in again.stderr
    assert refused.returncode == 2
    assert "try one of: acme-echo/echo, gym-plugin-echo/echo" in refused.stderr
    assert chosen.returncode == 0, chosen.stderr
    assert "use: acme-echo/echo" in (tmp_path / "mix" / "plan.yaml").read_text()


def test_a_broken_plugin_exits_with_4(gym: Gym, tmp_path: Path) -> None:
    """
    It is not the request that is wrong.
    """
    folder = tmp_path / "plugins"
    folder.mkdir()
    files = {"it_raises/__init__.py": "raise RuntimeError('on purpose')\n", "it_raises/gym.yaml": "gym_api: 1\n"}
    plugins = PluginFolder(folder)
    plugins.install("it-raises", files, {"gymcore.environments": {"raises": "it_raises:Mine"}})

    done = gym("compose", "--env", "raises", folder=plugins)

    assert done.returncode == 4
    assert "PluginError: the environment 'raises' (it-raises 0.1.0) could not be imported" in done.stderr


def test_warnings_go_to_stderr(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    What is merely odd is no mistake, and no data; how to silence it is said.
    """
    tool = {"type": "function", "name": "repeat", "parameters": {}}
    row = {
        "answer": "x",
        "responses_create_params": {"input": "x", "tools": [tool]},
        "agent_ref": {"name": "echo_voice"},
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))

    done = gym("compose", "--data", "rows.jsonl", "--out", "mix", folder=plugins)

    assert done.returncode == 0, done.stderr
    assert "warning: rows of echo describe the parameters of repeat otherwise" in done.stderr
    assert "  rows.jsonl:1\n" in done.stderr
    assert "to silence: --ignore-warning tool-drift" in done.stderr
    assert "warning" not in done.stdout


def test_a_variable_may_come_from_the_file_env(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    A key in `.env` is used, and only its name is written.
    """
    (tmp_path / ".env").write_text(f"MY_KEY={SECRET}\n")

    done = gym("compose", "-e", "echo", "--set", "environments.echo.config.key=${MY_KEY}", "--out", "m", folder=plugins)

    assert done.returncode == 0, done.stderr
    assert "key: ${MY_KEY}" in (tmp_path / "m" / "plan.yaml").read_text()


# -- flags become a plan -----------------------------------------------------------------------------------------------


def test_flags_are_a_plan(tmp_path: Path) -> None:
    """
    What can be typed can be written, and means the same.
    """
    flags = _plan(
        env=["a", "dist/b"],
        model="m",
        agent="g",
        split="train",
        limit=3,
        repeats=2,
        concurrency=8,
        seed=7,
        hook=["h"],
        set=["environments.a.repeats=5", "models.judge=j"],
    )

    written = Plan.from_file(
        _written(
            tmp_path,
            """
environments:
  a: {repeats: 5}
  b: {use: "dist/b"}
models: {policy: m, judge: j}
agent: g
hooks: [h]
mix: {seed: 7, split: train, limit: 3}
collect: {repeats: 2, concurrency: 8}
""",
        )
    )
    assert flags == written


def test_flags_change_a_plan_file(tmp_path: Path) -> None:
    """
    What is typed wins over what is written, also over what the file says of single environments.
    """
    path = _written(tmp_path, "environments:\n  a:\n  b: {limit: 9, repeats: 3}\ndata: one\nhooks: [x]\n")

    plan = _plan(plan=path, env=["c"], data=["two"], hook=["y"], limit=2, repeats=4, seed=1)

    assert {name: entry.limit for name, entry in plan.environments.items()} == {"a": None, "b": None, "c": None}
    assert plan.environments["b"].repeats is None
    assert (plan.mix.limit, plan.collect.repeats) == (2, 4)
    assert (plan.data, plan.hooks, plan.mix.seed) == (["one", "two"], ["x", "y"], 1)


def test_an_environment_may_be_typed_that_the_file_names_too(tmp_path: Path) -> None:
    """
    It keeps what the file says of it.
    """
    path = _written(tmp_path, "environments:\n  a: {limit: 9}\n")

    assert _plan(plan=path, env=["a"]).environments["a"].limit == 9
    assert _plan(plan=path, env=["dist/a"]).environments["a"].use == "dist/a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "a plan is a mapping"),
        ("environments: [a]\n", "environments"),
        ("environments: word\n", "environments"),
        ("a: [\n", "asked.yaml:2"),
        ("environments:\n  a: {limt: 1}\nmix: {seed: x}\n", "2 mistakes in"),
    ],
)
def test_a_wrong_file_is_refused_whatever_is_typed(tmp_path: Path, text: str, said: str) -> None:
    """
    Flags do not hide the mistakes of the file.
    """
    with pytest.raises(PlanError) as caught:
        _plan(plan=_written(tmp_path, text), env=["b"], data=["c"], limit=3)

    assert said in str(caught.value)


def test_a_limit_holds_for_environments_that_only_rows_name() -> None:
    """
    A limit typed beside data is the plan's, and so every environment's.
    """
    assert _plan(data=["rows.jsonl"], limit=3).mix.limit == 3


# -- mixes that repeat their rows --------------------------------------------------------------------------------------

MIX = ("run", "--env", "echo=1", "--env", "shout=2", "--batch", "6", "--out", "mix")


def test_every_epoch_plays_its_tasks_anew_and_a_larger_mix_plays_what_is_new(
    gym: Gym, plugins: PluginFolder, tmp_path: Path
) -> None:
    """
    No two rollouts share task and repeat, though tasks come again; the smaller mix is the beginning of the larger one.
    """
    first = gym(*MIX, "--size", "30", "--repeats", "2", folder=plugins)
    more = gym(*MIX, "--size", "42", "--repeats", "2", folder=plugins)

    assert (first.returncode, more.returncode) == (0, 0), first.stderr + more.stderr
    lines = [json.loads(line) for line in (tmp_path / "mix" / "rollouts.jsonl").read_text().splitlines()]
    assert len({(line["environment"], line["task_id"], line["repeat"]) for line in lines}) == len(lines) == 84
    assert max(line.get("epoch", 1) for line in lines) == 6
    for line in lines:
        assert line["repeat"] // 2 == line.get("epoch", 1) - 1
    report = json.loads((tmp_path / "mix" / "report.json").read_text())
    assert (report["total"]["planned"], report["total"]["finished"], report["total"]["owed"]) == (84, 84, 0)


def test_other_repeats_of_a_mix_with_epochs_are_refused(gym: Gym, plugins: PluginFolder) -> None:
    """
    Which rollout is which would change.
    """
    gym(*MIX, "--size", "30", "--repeats", "2", folder=plugins)

    refused = gym("run", "mix", "--repeats", "3", folder=plugins)

    assert refused.returncode == 2
    assert "echo: repeats 2 -> 3" in refused.stderr


# -- environments with an argument -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "environments"),
    [
        (["remote:http://h:9000"], {"remote": ("remote:http://h:9000", None)}),
        (["remote:http://h:9000=2"], {"remote": ("remote:http://h:9000", 2)}),
        (["remote:http://h:9000=0.5"], {"remote": ("remote:http://h:9000", 0.5)}),
        (["remote:http://h:9000/a=b"], {"remote": ("remote:http://h:9000/a=b", None)}),
        (["remote:http://h/?of=1"], {"remote": ("remote:http://h/?of=1", None)}),
        (["remote:http://h/?of=1=2"], {"remote": ("remote:http://h/?of=1", 2)}),
        (["remote:http://h/?of=1&by=2"], {"remote": ("remote:http://h/?of=1&by=2", None)}),
        (["dist/remote:http://h"], {"remote": ("dist/remote:http://h", None)}),
        (["host:example_x=3"], {"example_x": ("host:example_x", 3)}),
        (["host:weather", "weather"], {"host": ("host:weather", None), "weather": (None, None)}),
        (
            ["remote:http://a", "remote:http://b", "remote:http://c"],
            {
                "remote": ("remote:http://a", None),
                "remote_2": ("remote:http://b", None),
                "remote_3": ("remote:http://c", None),
            },
        ),
    ],
)
def test_what_follows_a_colon_is_an_argument(env: list[str], environments: dict[str, tuple[Any, Any]]) -> None:
    """
    An environment is named by its argument where that is a name, and else by its plugin; further ones are numbered.

    Only a number after the last equals sign is a weight, and none that a query of the address has given a name.
    """
    plan = _plan(env=env)

    assert {name: (entry.use, entry.weight) for name, entry in plan.environments.items()} == environments


def test_an_argument_finds_its_entry_in_a_plan(tmp_path: Path) -> None:
    """
    As it was typed, or as it was resolved; another one becomes an entry of its own.
    """
    text = "environments: {far: {use: 'remote:http://a'}, remote: {use: remote, config: {url: 'http://b'}, limit: 3}}"

    plan = _plan(plan=_written(tmp_path, text), env=["remote:http://b=2", "remote:http://c"])

    assert list(plan.environments) == ["far", "remote", "remote_2"]
    assert (plan.environments["remote"].use, plan.environments["remote"].weight) == ("remote", 2)
    assert plan.environments["remote"].limit == 3
    assert plan.environments["remote_2"].use == "remote:http://c"


def test_data_belong_to_the_only_environment_if_it_is_elsewhere() -> None:
    """
    Its rows say how they are routed there; beside another environment, they say who here plays them.
    """
    alone = _plan(env=["remote:http://a"], data=["rows.jsonl"])
    beside = _plan(env=["remote:http://a", "b"], data=["rows.jsonl"])
    here = _plan(env=["b"], data=["rows.jsonl"])

    assert (alone.environments["remote"].data, alone.data) == (["rows.jsonl"], [])
    assert (beside.environments["remote"].data, beside.data) == ([], ["rows.jsonl"])
    assert (here.environments["b"].data, here.data) == ([], ["rows.jsonl"])


def test_naming_one_argument_twice_is_told_without_it() -> None:
    """
    An address may hold what nobody should read.
    """
    with pytest.raises(PlanError) as caught:
        _plan(env=["remote:http://u:hush@a", "remote:http://u:hush@a=2"])

    assert "the environment 'remote:...' is named 2 times" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_naming_one_plain_argument_twice_is_told_with_it() -> None:
    """
    What is to be tried is a whole name, too.
    """
    with pytest.raises(PlanError) as caught:
        _plan(env=["nemo_gym:mcqa", "nemo_gym:mcqa"])

    assert str(caught.value) == (
        "the environment 'nemo_gym:mcqa' is named 2 times (--env)\n"
        "  try: give the second a name of its own: --set environments.NAME.use=nemo_gym:mcqa"
    )


def test_a_mix_of_more_rows_than_can_be_meant_is_refused(gym: Gym) -> None:
    """
    Before its rows are counted out.
    """
    done = gym("compose", "--env", "example_single_tool_call", "--size", "1000000000000", "--out", "mix")

    assert done.returncode == 2
    assert "less than or equal to 1000000000, not 1000000000000 (mix.size, the command line)" in done.stderr


@pytest.mark.rig
def test_a_mix_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    """
    In one line, when the memory is at its end.
    """
    command = f"ulimit -v 300000; exec {sys.executable} -m gymcore compose --env example_multi_step --size 1000000000"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    assert "the mix does not fit into memory" in done.stderr
    assert "Traceback" not in done.stderr
