"""
A plan: what it means, what it refuses, and that it reads back as it was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.documents import YamlDocument
from gymcore.errors import PlanError
from gymcore.plan import Plan, expand_variables, load_environ


def _plan(text: str, folder: Path, *settings: str) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text)
    return Plan.from_file(path, settings)


def _set(*settings: str, plan: dict[str, Any] | None = None) -> Plan:
    return Plan.from_document(YamlDocument(plan or {}), settings=settings)


def _mistakes(text: str | bytes, folder: Path, *settings: str) -> PlanError:
    path = folder / "plan.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(PlanError) as caught:
        Plan.from_file(path, settings)
    return caught.value


# -- what a plan means -------------------------------------------------------------------------------------------------


def test_the_plan_of_the_design_is_read(tmp_path: Path) -> None:
    """
    Entries may be empty, agents and models may be bare names, and files may be one or several.
    """
    plan = _plan(
        """
environments:
  first:
  second: {limit: 10, repeats: 8, concurrency: 64, params: {temperature: 1.0}, agent: simple_agent}
  third: {use: second, data: rows.jsonl, config: {synonyms: 12}, agent: {use: x, config: {max_turns: 3}}}
models:
  policy: openai_model
  judge: {use: nop}
agent: other
data: routed.jsonl
mix: {seed: 7}
collect: {concurrency: 256, timeout_s: 600}
""",
        tmp_path,
    )

    assert list(plan.environments) == ["first", "second", "third"]
    assert plan.environments["third"].data == ["rows.jsonl"]
    assert plan.environments["third"].agent is not None
    assert plan.environments["third"].agent.config == {"max_turns": 3}
    assert plan.models["policy"].use == "openai_model"
    assert plan.agent is not None
    assert plan.agent.use == "other"
    assert plan.data == ["routed.jsonl"]
    assert (plan.mix.seed, plan.collect.concurrency, plan.collect.timeout_s) == (7, 256, 600)


def test_a_plan_without_models_is_played_by_the_oracle(tmp_path: Path) -> None:
    """
    There is always a policy, also beside other models.
    """
    assert _plan("", tmp_path).models["policy"].use == "oracle"
    assert _plan("models: {judge: nop}", tmp_path).models["policy"].use == "oracle"


# -- what a plan refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("environments: [\n", ":2", "not YAML"),
        ("mix: {seed: 1}\nmix: {seed: 2}\n", ":2", "the key 'mix' stands twice"),
        ("environments:\n  a: {}\n  a: {}\n", ":3", "the key 'a' stands twice"),
        ("mix:\n  seed: 010\n", ":2", "in quotes"),
        (b"mix: \xff", "plan.yaml:1", "not UTF-8"),
        ("- a\n- b\n", "plan.yaml", "a plan is a mapping"),
        ("just words", "plan.yaml", "a plan is a mapping"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(text: str | bytes, where: str, said: str, tmp_path: Path) -> None:
    """
    The message names the file and, where there is one, the line.
    """
    error = _mistakes(text, tmp_path)

    assert said in error.message
    assert error.where is not None
    assert error.where.endswith(where)


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """
    A missing file and a folder are mistakes of the request.
    """
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        Plan.from_file(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        Plan.from_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("envirnoments:\n  a:\n", "envirnoments, {}:1", "unknown key 'envirnoments'", "try: environments"),
        ("environments:\n  a:\n    limt: 1\n", "environments.a.limt, {}:3", "unknown key 'limt'", "try: limit"),
        ("mix:\n  sed: 1\n", "mix.sed, {}:2", "unknown key 'sed'", "try: seed"),
        ("collect:\n  timeout: 1\n", "collect.timeout, {}:2", "unknown key 'timeout'", "try: timeout_s"),
        (
            "models:\n  p:\n    api_key: x\n",
            "models.p.api_key, {}:3",
            "unknown key 'api_key'",
            "known here: use, config, concurrency",
        ),
        ("agent:\n  usee: x\n", "agent.usee, {}:2", "unknown key 'usee'", "try: use"),
        (
            "environments:\n  a:\n    agent: {usee: x}\n",
            "environments.a.agent.usee, {}:3",
            "unknown key 'usee'",
            "try: use",
        ),
        (
            "mix:\n  schedule:\n  - {weights: {a: 1}, untill: 5}\n",
            "mix.schedule.0.untill, {}:3",
            "unknown key 'untill'",
            "try: until",
        ),
        ("environments:\n  agent: {limt: 1}\n", "environments.agent.limt, {}:2", "unknown key 'limt'", "try: limit"),
    ],
)
def test_an_unknown_key_is_answered_with_its_line_and_the_nearest(
    text: str, place: str, message: str, hint: str, tmp_path: Path
) -> None:
    """
    The place is key path, file and line; the hint is the key that was meant, or all that exist there.
    """
    error = _mistakes(text, tmp_path)

    assert error.message == message
    assert error.where == place.format(tmp_path / "plan.yaml")
    assert error.hints[0].startswith(hint)


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("mix:\n  seed: seven\n", "mix.seed", 2),
        ("mix:\n  seed: 1.0\n", "mix.seed", 2),
        ("mix:\n  seed: true\n", "mix.seed", 2),
        ("mix:\n  seed: 99999999999999999999999\n", "mix.seed", 2),
        ("mix:\n  shuffle: 'off'\n", "mix.shuffle", 2),
        ("mix:\n  allow_starved: yes\n", "mix.allow_starved", 2),
        ("mix:\n  schedule:\n  - weights: {a: -1}\n", "mix.schedule.0.weights.a", 3),
        ("check:\n  strict: yes\n", "check.strict", 2),
        ("check:\n  skip_invalid: 1\n", "check.skip_invalid", 2),
        ("collect:\n  concurrency: 0\n", "collect.concurrency", 2),
        ("collect:\n  concurrency: '8'\n", "collect.concurrency", 2),
        ("collect:\n  timeout_s: 0\n", "collect.timeout_s", 2),
        ("collect:\n  timeout_s: '10'\n", "collect.timeout_s", 2),
        ("collect:\n  timeout_s: true\n", "collect.timeout_s", 2),
        ("collect:\n  drain_s: -1\n", "collect.drain_s", 2),
        ("collect:\n  max_failures: -1\n", "collect.max_failures", 2),
        ("collect:\n  max_failures: 101%\n", "collect.max_failures", 2),
        ("collect:\n  max_failures: 0.05\n", "collect.max_failures", 2),
        ("collect:\n  max_failures: true\n", "collect.max_failures", 2),
        ("collect:\n  max_failures: '5'\n", "collect.max_failures", 2),
        ("environments:\n  a:\n    max_failures: few\n", "environments.a.max_failures", 3),
        ("models:\n  policy:\n    concurrency: 0\n", "models.policy.concurrency", 3),
        ("environments:\n  a:\n    limit: 2.5\n", "environments.a.limit", 3),
        ("environments:\n  a:\n    limit: -2\n", "environments.a.limit", 3),
        ("environments:\n  a:\n    split: 7\n", "environments.a.split", 3),
        ("environments:\n  a:\n    params: hot\n", "environments.a.params", 3),
        ("environments:\n  a: x\n", "environments.a", 2),
        ("environments:\n  a:\n    agent: {use: x, config: 5}\n", "environments.a.agent.config", 3),
        ("environments:\n  a:\n    data:\n    - x\n    - 5\n", "environments.a.data.1", 4),
        ("environments:\n  a:\n    data:\n      url: http://x/y\n      sha256: x\n", "environments.a.data.sha256", 5),
        ("data:\n- x\n- url: http://x/y\n  sha256: x\n", "data.1.sha256", 4),
        ("environments: [a, b]\n", "environments", 1),
        ("models: openai_model\n", "models", 1),
        ("models:\n  policy:\n    use: 5\n", "models.policy.use", 3),
        ("data: {a: b}\n", "data", 1),
        ("hooks: mine\n", "hooks", 1),
        ("environments:\n  'a b': {}\n", "environments.a b", 2),
        ("environments:\n  dist:name: {}\n", "environments.dist:name", 2),
        ("environments:\n  ../up: {}\n", "environments.../up", 2),
    ],
)
def test_a_wrong_type_is_answered_with_key_path_and_line(text: str, path: str, line: int, tmp_path: Path) -> None:
    """
    No value is guessed: a number in quotes is a text, a truth is no number, and the message shows what stood there.
    """
    error = _mistakes(text, tmp_path)

    assert len(error.problems) == 1
    assert error.where is not None
    assert error.where.startswith(f"{path}, ")
    assert error.where.rpartition(":")[2] in (str(line), str(line + 1))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("environments: {a: {weight: '012'}}", "12"),
        ("environments: {a: {weight: '0.50'}}", "0.50"),
        ("environments: {a: {limit: '3'}}", "3"),
        ("environments: {a: {timeout_s: ' 5 '}}", "5"),
        ("mix: {seed: '-007'}", "-7"),
        ("mix: {seed: '+0'}", "0"),
        ("collect: {max_failures: '07'}", "7"),
        ("mix: {seed: 7e1x}", None),
    ],
)
def test_a_number_in_quotes_is_answered_with_the_number(text: str, number: str | None, tmp_path: Path) -> None:
    """
    Whoever wrote one may have been told to, of a number that begins with a zero.
    """
    hints = _mistakes(f"{text}\n", tmp_path).hints

    assert hints == (() if number is None else (f"a text is no number; try: {number}, without quotes",))


def test_a_budget_that_is_none_is_answered_with_what_one_looks_like(tmp_path: Path) -> None:
    """
    `5%` and `0.05` are easily mistaken for one another.
    """
    error = _mistakes("collect: {max_failures: 0.05}\n", tmp_path)

    assert error.message == "input should be a count such as 50, or a share such as 5%, not 0.05"


def test_all_mistakes_of_a_plan_are_reported_together(tmp_path: Path) -> None:
    """
    Settings, unknown keys and wrong types are one list, so that a plan is mended in one go.
    """
    text = "environments:\n  a: {limt: 1, repeats: x}\nmix: {seed: a}\nextra: 1\n"

    error = _mistakes(text, tmp_path, "nonsense", "collect.concurrency=0")

    assert error.message == f"6 mistakes in {tmp_path / 'plan.yaml'}"
    for part in ("--set nonsense", "a.limt", "a.repeats", "mix.seed", "'extra'", "collect.concurrency"):
        assert part in str(error)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    """
    A prompt in the wrong place does not fill the screen.
    """
    assert len(str(_mistakes("mix: {seed: " + "x" * 5000 + "}", tmp_path))) < 400


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("mix.seed=7", lambda plan: plan.mix.seed == 7),
        ("environments.a.limit=3", lambda plan: plan.environments["a"].limit == 3),
        ("environments.b.use=a", lambda plan: plan.environments["b"].use == "a"),
        ("models.policy=nop", lambda plan: plan.models["policy"].use == "nop"),
        ("models.policy.config.x={a: [1, b]}", lambda plan: plan.models["policy"].config == {"x": {"a": [1, "b"]}}),
        (
            "models.policy.config.url=http://h:1/v1?a=b",
            lambda plan: plan.models["policy"].config["url"].endswith("a=b"),
        ),
        ("models.policy.config.x=010", lambda plan: plan.models["policy"].config == {"x": "010"}),
        ("models.policy.config.x=[1,", lambda plan: plan.models["policy"].config == {"x": "[1,"}),
        ("models.policy.config.x=*y", lambda plan: plan.models["policy"].config == {"x": "*y"}),
        ("models.policy.config.x=no", lambda plan: plan.models["policy"].config == {"x": "no"}),
        ("models.policy.config.x=", lambda plan: plan.models["policy"].config == {"x": None}),
        ("agent=other", lambda plan: plan.agent.use == "other"),
        ("agent.config.n=1", lambda plan: plan.agent.config == {"n": 1}),
        ("data=[a, b]", lambda plan: plan.data == ["a", "b"]),
        ("mix.schedule=[{weights: {a: 0.0, b: 1}}]", lambda plan: plan.mix.schedule[0].weights == {"a": 0, "b": 1}),
        *(
            (f"environments.a.prompt.user={text}", lambda plan, text=text: plan.environments["a"].prompt.user == text)
            for text in ("Question #1: {city} # please", "# One", "first\nsecond", "it's", "two  words")
        ),
        ("environments.a.prompt.user= 'a # b' # c", lambda plan: plan.environments["a"].prompt.user == "a # b"),
        ("environments.a.limit=3 # three", lambda plan: plan.environments["a"].limit == 3),
        ("environments.a.filter.level=3", lambda plan: plan.environments["a"].filter == {"level": 3}),
        ("environments.a.filter.b.level=3", lambda plan: plan.environments["a"].filter == {"b.level": 3}),
        ("environments.a.filter.min=3", lambda plan: plan.environments["a"].filter == {"min": 3}),
        (
            "environments.a.filter.b.level.not.min=3",
            lambda plan: plan.environments["a"].filter == {"b.level": {"not": {"min": 3}}},
        ),
        ("environments.a.params.temperature=0.5", lambda plan: plan.environments["a"].params == {"temperature": 0.5}),
    ],
)
def test_a_setting_changes_one_key_of_the_plan(setting: str, found: Any) -> None:
    """
    Missing mappings are made on the way; the value is YAML where it is YAML, and a text where it is not.
    """
    assert found(_set(setting, plan={"environments": {"a": None}}))


def test_a_setting_that_yaml_reads_as_no_text_is_answered_with_quotes() -> None:
    """
    Braces make a mapping where they are not quoted.
    """
    with pytest.raises(PlanError, match="input should be a valid string") as caught:
        _set("environments.a.prompt.user={city}")

    assert caught.value.hints == ("a text that YAML reads as something else is written in quotes, 'like this'",)
    plan = _set("environments.a.prompt.user='{city}'")
    assert plan.environments["a"].prompt is not None
    assert plan.environments["a"].prompt.user == "{city}"


def test_a_setting_joins_the_conditions_of_a_file() -> None:
    """
    A key path of rows is one key, in the file as in the setting.
    """
    plan = {"environments": {"a": {"filter": {"b.level": {"min": 1}}}}}

    changed = _set("environments.a.filter.b.level.max=3", plan=plan)

    assert changed.environments["a"].filter == {"b.level": {"min": 1, "max": 3}}


def test_the_last_setting_wins_over_the_others_and_the_file() -> None:
    """
    Layers are applied in order.
    """
    assert _set("mix.seed=2", "mix.seed=3", plan={"mix": {"seed": 1}}).mix.seed == 3


@pytest.mark.parametrize(
    "plan",
    [
        {"models": {"judge": "openai_model"}},
        {"models": {"judge": {"use": "openai_model"}}},
    ],
)
def test_a_setting_reaches_into_a_model_that_is_only_a_name(plan: dict[str, Any]) -> None:
    """
    A bare name stands for `{use: name}`, for judges as for the policy.
    """
    judge = _set("models.judge.config.model=m", plan=plan).models["judge"]

    assert (judge.use, judge.config) == ("openai_model", {"model": "m"})


def test_a_setting_reaches_into_an_agent_that_is_only_a_name() -> None:
    """
    The same holds for agents, of the plan and of one environment.
    """
    plan = _set(
        "agent.config.n=1",
        "environments.a.agent.config.n=2",
        plan={"agent": "x", "environments": {"a": {"agent": "y"}}},
    )

    assert plan.agent is not None
    assert (plan.agent.use, plan.agent.config) == ("x", {"n": 1})
    assert plan.environments["a"].agent is not None
    assert (plan.environments["a"].agent.use, plan.environments["a"].agent.config) == ("y", {"n": 2})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed", "a setting looks like key.path=value"),
        ("=1", "a setting looks like key.path=value"),
        ("mix..seed=1", "a setting looks like key.path=value"),
        (".=1", "a setting looks like key.path=value"),
        ("data.0=x", "'data' is no mapping"),
        ("mix.seed.deeper=1", "'seed' is no mapping"),
        ("mix.seed=\udcff", "not UTF-8"),
        ("models.policy.config.x=\udcff", "not UTF-8"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_named(setting: str, said: str) -> None:
    """
    The message names the setting, and the rest of the plan is still checked.
    """
    with pytest.raises(PlanError) as caught:
        _set(setting, plan={"data": ["f"], "mix": {"seed": 1}})

    assert said in str(caught.value)
    assert "--set" in str(caught.value)


@pytest.mark.parametrize("setting", ["mix..key=hush-hush", "data.0=hush-hush", "mix.seed.x=hush-hush"])
def test_a_setting_that_cannot_be_applied_does_not_show_its_value(setting: str) -> None:
    """
    What follows the `=` may be a key that somebody typed.
    """
    with pytest.raises(PlanError) as caught:
        _set(setting, plan={"data": ["f"], "mix": {"seed": 1}})

    assert "hush-hush" not in str(caught.value)


# -- writing -----------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,9}", fullmatch=True) | st.sampled_from(["no", "null", "on", "e3"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["010", "1e3", "no", "", "~", "${X}"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OPTIONS = st.dictionaries(TEXTS, VALUES, max_size=2)
COUNTS = st.integers(1, 10**9)
BUDGETS = st.integers(0, 10**9) | st.decimals(0, 100, places=2).map("{}%".format)
AGENTS = st.fixed_dictionaries({}, optional={"use": TEXTS, "config": OPTIONS})
MODELS = st.fixed_dictionaries({}, optional={"use": TEXTS, "config": OPTIONS, "concurrency": COUNTS})
ENVIRONMENTS = st.fixed_dictionaries(
    {},
    optional={
        "use": TEXTS,
        "split": TEXTS,
        "data": st.lists(TEXTS, max_size=2),
        "limit": COUNTS,
        "repeats": COUNTS,
        "concurrency": COUNTS,
        "max_failures": BUDGETS,
        "params": OPTIONS,
        "agent": AGENTS,
        "model": TEXTS,
        "config": OPTIONS,
    },
)
PLANS = st.fixed_dictionaries(
    {},
    optional={
        "environments": st.dictionaries(NAMES, ENVIRONMENTS, max_size=3),
        "data": st.lists(TEXTS, max_size=2),
        "agent": AGENTS,
        "models": st.dictionaries(NAMES, MODELS, max_size=2),
        "mix": st.fixed_dictionaries({}, optional={"seed": st.integers(-(2**63), 2**63 - 1)}),
        "collect": st.fixed_dictionaries(
            {},
            optional={
                "repeats": COUNTS,
                "concurrency": COUNTS,
                "timeout_s": st.floats(1e-3, 1e9),
                "drain_s": COUNTS,
                "max_failures": BUDGETS,
            },
        ),
        "hooks": st.lists(TEXTS, max_size=2),
    },
).map(Plan.model_validate)


@given(PLANS)
def test_a_written_plan_reads_back_equal(plan: Plan) -> None:
    """
    `plan.yaml` says what was asked, no more and no less, and keeps the order of environments.
    """
    from gymcore.documents import parse_yaml

    found = Plan.from_document(parse_yaml(plan.to_yaml()))

    assert found == plan
    assert list(found.environments) == list(plan.environments)


def test_a_written_plan_leaves_out_what_is_default(tmp_path: Path) -> None:
    """
    The file is as short as its author would write it.
    """
    plan = _plan("environments: {a: {limit: 2}, b: }\ncollect: {repeats: 1}\n", tmp_path)

    assert plan.to_dict() == {"environments": {"a": {"limit": 2}, "b": {}}, "models": {"policy": {"use": "oracle"}}}


# -- variables ---------------------------------------------------------------------------------------------------------


def test_variables_are_replaced_at_every_depth() -> None:
    """
    A text may hold several; whatever is no text stays, and a value is not expanded again.
    """
    value = {"a": "${X}-${Y}", "b": [1, {"c": "${X}"}], "d": None, "e": "$X {X} $${X}"}

    expanded, problems = expand_variables(value, {"X": "1", "Y": "${X}"}, "config")

    assert expanded == {"a": "1-${X}", "b": [1, {"c": "1"}], "d": None, "e": "$X {X} $1"}
    assert problems == []


def test_every_variable_that_is_not_set_is_reported_with_its_place() -> None:
    """
    The message names variable and key path, and says how to set it.
    """
    _, problems = expand_variables(
        {"a": "${NO_KEY}", "b": ["${ALSO NOT}", "${NOR}"]}, {"EMPTY": ""}, "models.policy.config"
    )

    assert [(problem.message, problem.where) for problem in problems] == [
        ("${NO_KEY} is not set", "models.policy.config.a"),
        ("${ALSO NOT} is no variable name", "models.policy.config.b[0]"),
        ("${NOR} is not set", "models.policy.config.b[1]"),
    ]
    assert "export NO_KEY=" in problems[0].hints[0]


def test_a_variable_that_is_set_to_nothing_is_set() -> None:
    """
    An empty value is a value.
    """
    assert expand_variables({"a": "${EMPTY}"}, {"EMPTY": ""}, "config") == ({"a": ""}, [])


def test_the_file_env_completes_the_environment_and_never_overrides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is exported wins; `${...}` in the file is text, because it has one meaning, and it is the plan's.
    """
    monkeypatch.setenv("GYM_TEST_EXPORTED", "shell")
    (tmp_path / ".env").write_text(
        "GYM_TEST_EXPORTED=file\nGYM_TEST_KEY='a ${HOME}'\nexport GYM_TEST_B=b # why\nBARE\n"
    )

    environ = load_environ(tmp_path)

    assert environ["GYM_TEST_EXPORTED"] == "shell"
    assert environ["GYM_TEST_KEY"] == "a ${HOME}"
    assert environ["GYM_TEST_B"] == "b"
    assert "BARE" not in environ


def test_a_folder_without_env_file_gives_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A folder called `.env`, as some tools make, is no such file.
    """
    monkeypatch.setenv("GYM_TEST_EXPORTED", "shell")
    (tmp_path / ".env").mkdir()

    assert load_environ(tmp_path)["GYM_TEST_EXPORTED"] == "shell"


def test_an_env_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """
    The message names the file, and shows nothing of it.
    """
    (tmp_path / ".env").write_bytes(b"KEY=\xff\xfe")

    with pytest.raises(PlanError, match=r"is not UTF-8 .*\.env"):
        load_environ(tmp_path)
