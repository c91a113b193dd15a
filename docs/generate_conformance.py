"""
Writes docs/reference/conformance.md from the suites of `gymcore.testing`: every check and every switch.

`python docs/generate_conformance.py` writes the page.
`python docs/generate_conformance.py --check` writes nothing, and exits 1 when the page is not what would be written.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator

from generated_page import sentences, write_or_compare

from gymcore.testing import AgentSuite, EnvironmentSuite, ModelSuite
from gymcore.testing.suites import PluginSuite, checks_of

HEAD = """\
# The conformance kit

<!-- Written by docs/generate_conformance.py from gymcore/testing/suites; change the suites, and run it again. -->

What every environment, agent and model should hold, as classes that a plugin's tests inherit from.
[Test an environment](../how-to/test-an-environment.md) shows their use.

- A check is a method; its name does not change.
  Override it, or set it to `None`, to switch it off for one plugin.
- Attributes of the class are switches.
- A check that does not hold says what was seen, where, why it matters and what to change.
- A check that does not apply is skipped with its reason; so is one that another check's fault has made pointless.
- Every attempt is played first in an interpreter of its own, which may hang or crash; what has come back from there is played again here, many at once.
- Nothing of the plugin is looked at while tests are collected.
- Under pytest-xdist, give the class `@pytest.mark.xdist_group`, so that what its checks share is made once.
- A check that is newer than the gymcore that a plugin asks for (`gymcore>=0.1`) warns while it is new, and fails from the next minor release on.
  A plugin that does not say how old its gymcore may be gets no such delay.

## Without pytest

`python -m gymcore.testing.suites KIND NAME [--from TEST_FILE]... [--json]` runs the checks of an installed plugin.
`KIND` is `environment`, `agent` or `model`.
With `--from` it takes the classes in these files whose `plugin` is `NAME`, with their switches, overrides and further tests; without any such class, the plain suite.
A test that takes arguments needs pytest, and is skipped.
With `--json` it prints one object for each check as it ends, with `check`, `status` (`passed`, `failed`, `skipped` or `warned`), `message`, `why`, `fix` and `seconds`, and at last `{"done": true}`.
Whatever the plugin prints goes to stderr.
The checks run in an interpreter of their own: a plugin that ends it, crashes it or never comes back has failed the check that was running, with the exit code, the signal or the line, and the next checks are run in another one.
`--check-timeout` and `--timeout` say how many seconds one check, and all of them, may take.
It exits with 0 when no check has failed, else with 1.
`gymcore.testing.suites.run_suite(kind, name, files)` does the same in Python.

## Cases

`cases.jsonl` beside the test holds attempts and what they earn, one a line:

```json
{"row": {"responses_create_params": {"input": "Add 2 and 3."}, "total": 5}, "replies": [{"call": "add", "arguments": {"left": 2, "right": 3}}, "5"], "reward": 1.0}
```

A reply is a text, a call, or a list of these for one reply that holds several; `arguments` may be a text, for what is no JSON.
A line of a run's `rollouts.jsonl` is a case, too.
"""


def switches_of(suite: type[PluginSuite]) -> Iterator[tuple[str, str, str]]:
    """Yield the switches that a class adds: name, default, and what is written below it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(suite))).body
    assert isinstance(tree, ast.ClassDef)
    for item, below in zip(tree.body, tree.body[1:], strict=False):
        is_told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_told:
            name = item.target.id
            if item.value is not None and name != "kind":
                yield name, ast.unparse(item.value), " ".join(str(below.value.value).split())


def page() -> str:
    """
    Return the whole page.
    """
    parts = [HEAD]
    base = {check.name for check in checks_of(PluginSuite)}
    for title, suite, about in (
        ("Every plugin", PluginSuite, "These are part of each suite."),
        ("EnvironmentSuite", EnvironmentSuite, "An environment is played with attempts of every sort."),
        ("AgentSuite", AgentSuite, "An agent plays a small world of the suite, with scripted models."),
        ("ModelSuite", ModelSuite, "A model asks a loopback endpoint that misbehaves."),
    ):
        table = [f"| `{name}` | `{default}` | {told} |" for name, default, told in switches_of(suite)]
        parts += [f"## {title}\n\n{about}\n", "\n".join(["| Switch | Default | |", "|---|---|---|", *table]) + "\n"]
        for check in checks_of(suite):
            if suite is PluginSuite or check.name not in base:
                parts.append(
                    f"### {check.name}\n\n{sentences(check.what)}\n\n"
                    f"Why: {sentences(check.why)}\n\nFix: {sentences(check.fix)}\n\nSince {check.since}.\n"
                )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_compare("conformance.md", page()))
