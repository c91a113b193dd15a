"""
Writes docs/reference/check.md from the checks of `gym check`: every finding of its first four phases.

`python docs/generate_findings.py` writes the page.
`python docs/generate_findings.py --check` writes nothing, and exits 1 when the page is not what would be written.
"""

import sys

from generated_page import sentences, write_or_compare

from gymcore.authoring.checking import CLAIMS, PHASES

HEAD = """\
# What gym check finds

<!-- Written by docs/generate_findings.py from gymcore/authoring/checking; change the checks, and run it again. -->

`gym check` looks at a plugin in five phases; [Check a plugin](../how-to/check-a-plugin.md) shows its use.
The findings of the first four are here by name, with the reason and what to change; those of the fifth are the checks of [the conformance kit](conformance.md).
A name never changes.

- A check passes, fails, warns, or is skipped with its reason.
- A warning is advice: the plugin works without it; with `--strict` it counts as a finding.
- For an installed `NAME`, `manifests_are_valid`, `data_are_there`, `plugin_can_be_loaded` and the suite are made, in the environment that gymcore runs in.
- What is made on the way is removed at the end, also after Ctrl-C; every process has a limit of time, and ends with all that it has started.

## JSON

`--json` prints one object:

| Key | |
|---|---|
| `schema` | 1. |
| `checked` | The folder, or the name as it was given. |
| `distribution`, `version` | What was checked. |
| `plugins` | Each plugin, as `KIND NAME`. |
| `is_well` | Whether the exit code is 0. |
| `seconds` | How long it took. |
| `phases` | For each of the five: `phase`, `what`, `status`, `seconds`, and `checks`, each with `check`, `status`, `told`, `plugin` and `seconds`. |
| `findings` | Each with `phase`, `check`, `level` (`error` or `warning`), `message`, `where`, `fix`, `why` and `plugin`. |

`where` is `file:line` below the project, where there is such a place; `plugin` is null for what is about the whole distribution.
"""


def page() -> str:
    """
    Return the whole page.
    """
    parts = [HEAD]
    for phase, what in PHASES.items():
        parts.append(f"## {phase.capitalize()}\n\n{sentences(what)}\n")
        for claim in CLAIMS.values():
            if claim.phase == phase:
                level = "A warning.\n\n" if claim.warns else ""
                parts.append(
                    f"### {claim.name}\n\n{sentences(claim.what)}\n\n{level}"
                    f"Why: {sentences(claim.why)}\n\nFix: {sentences(claim.fix)}\n"
                )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_compare("check.md", page()))
