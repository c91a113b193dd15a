"""
What has moved between two locks, in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymcore.composition.locking.installed import code_changes
from gymcore.composition.locking.lock import code_that_only_observes
from gymcore.documents import encode_json

__all__ = ["Move", "moves"]


@dataclass(frozen=True)
class Move:
    """One thing that is not as it was."""

    about: str
    """What has moved: `gymcore`, `seed`, `mix`, an environment, `model NAME`, a distribution, `data` or `dataset`."""
    words: str
    """What has become of it."""
    is_decisive: bool = True
    """Whether it decides which rows there are or what a rollout means, and is not only good to know."""

    @property
    def line(self) -> str:
        """The whole sentence."""
        return f"{self.about}: {self.words}"


def moves(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Move]:
    """
    Say what has moved from one lock to another; nothing where they are equal.

    Args:
        there: The lock that was first.
        here: The other one.
    """
    found = [
        *(Move(key, _change(there[key], here[key])) for key in ("gymcore", "seed") if there[key] != here[key]),
        *_of_mix(there["mix"], here["mix"]),
        *_of_plan(there["asked"], here["asked"]),
        *_of_environments(there, here),
        *_of_models(there["models"], here["models"]),
        *_of_distributions(there, here),
        *_of_data(there["data"], here["data"]),
    ]
    if there["dataset"] != here["dataset"]:
        found.append(Move("dataset", _dataset_words(there["dataset"], here["dataset"])))
    return found


def _of_mix(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    for path, old, new in _leaves(there, here):
        is_weight = len(path) == 2 and path[0] == "weights"
        name = f"the weight of {path[1]}" if is_weight else ".".join(path)
        # A tokenizer, like the files of rows, is compared by what is in it.
        yield Move("mix", f"{name} {_change(old, new)}", is_decisive=path != ("tokenizer",))


def _of_plan(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    """Say what else was asked; the rows that came of it are compared elsewhere."""
    for path, old, new in _leaves(there, here):
        yield Move("plan", f"{'.'.join(path)} {_change(old, new)}", is_decisive=False)


def _of_environments(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    old, new = there["environments"], here["environments"]
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Move(name, f"gone, with {_rows(old[name]['tasks'])}")
        elif name not in old:
            share = new[name]["tasks"] / max(1, here["dataset"]["rows"])
            yield Move(name, f"new, with {_rows(new[name]['tasks'])}, {share:.2%} of all")
        else:
            yield from _of_environment(name, old[name], new[name])
            yield from _of_shares(name, there, here)


def _of_environment(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    if there["plugin"] != here["plugin"]:
        yield Move(name, f"plugin {_change(there['plugin'], here['plugin'])}")
    for agent in sorted(there["agents"].keys() | here["agents"].keys()):
        plugins = (there["agents"].get(agent, _NOT_THERE), here["agents"].get(agent, _NOT_THERE))
        if plugins[0] != plugins[1]:
            yield Move(name, f"agent {agent} {_change(*plugins)}")
    for path, old, new in _leaves(there["asked"], here["asked"]):
        if path[0] in ("agent", "repeats") and _NOT_THERE in (old, new):
            continue  # they are only written beside other agents, and beside epochs, which are told
        if path[0] == "agents":
            if len(path) > 2:  # an agent that is only on one side was named above
                yield Move(name, f"agent {path[1]} {'.'.join(path[2:])} {_change(old, new)}")
        elif path[0] == "variables":
            yield from _of_variables(name, path[1:], old, new)
        else:
            # The files that are meant are compared by what is in them.
            yield Move(name, f"{'.'.join(path)} {_change(old, new)}", is_decisive=path[0] != "data")
    epochs = (there.get("epochs", 1), here.get("epochs", 1))
    if epochs[0] != epochs[1]:
        yield Move(name, f"epochs {_change(*epochs)}")


def _of_variables(about: str, path: Sequence[str], old: Any, new: Any) -> Iterator[Move]:
    """Say that a variable of the same name has another value; where only one side has it, its option says so."""
    values = (old, new) if path else (_NOT_THERE, _NOT_THERE)
    if _NOT_THERE not in values:
        yield Move(about, f"{'.'.join(path)} comes out of a variable that has another value now")


def _of_shares(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    """Say how much of the mix an environment was to have and has; shares follow from what is decisive."""
    old, new = there["environments"][name], here["environments"][name]
    if old["tasks"] != new["tasks"]:
        yield Move(name, f"{_rows(old['tasks'])} -> {_rows(new['tasks'])}")
    if old.get("requested") != new.get("requested"):
        change = f"{_share(old.get('requested'))} -> {_share(new.get('requested'))}"
        yield Move(name, f"requested share {change}", is_decisive=False)
    shares = [entry["tasks"] / max(1, lock["dataset"]["rows"]) for entry, lock in ((old, there), (new, here))]
    if shares[0] != shares[1]:
        yield Move(name, f"realised share {_share(shares[0])} -> {_share(shares[1])}", is_decisive=False)


def _of_models(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    for name in sorted(there.keys() | here.keys()):
        about = f"model {name}"
        if name not in here:
            yield Move(about, f"gone; it was {there[name]['plugin']}")
        elif name not in there:
            yield Move(about, f"new: {here[name]['plugin']}")
        else:
            for path, old, new in _leaves(there[name], here[name]):
                if path[0] == "variables":
                    yield from _of_variables(about, path[1:], old, new)
                else:
                    yield Move(about, f"{'.'.join(path)} {_change(old, new)}")


def _of_distributions(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Move]:
    """Say what has become of the code of distributions that both tell of; of the others their plugins are named."""
    old, new = there["distributions"], here["distributions"]
    changed = code_changes(old, new)
    observing = code_that_only_observes(here)
    if there["hooks"] != here["hooks"]:
        yield Move("hooks", _change(there["hooks"], here["hooks"]), is_decisive=False)
    for name in sorted(old.keys() & new.keys()):
        for line in changed.get(name, ()):
            yield Move(name, line.removeprefix(f"{name}: "), is_decisive=name not in observing)
        manifests = (old[name]["manifests"], new[name]["manifests"])
        for path in sorted(manifests[0].keys() & manifests[1].keys()):
            if manifests[0][path] != manifests[1][path]:
                # What a manifest decides, options, splits and agents, is in the lock as it was resolved.
                yield Move(name, f"{path} has changed", is_decisive=False)
        for key in ("installed", "origin"):
            if old[name][key] != new[name][key]:
                yield Move(name, f"{key} {_change(old[name][key], new[name][key])}", is_decisive=False)


def _of_data(there: list[Any], here: list[Any]) -> Iterator[Move]:
    old, new = _by_file(there), _by_file(here)
    came = {key: entry for key, entry in new.items() if key not in old}
    for key, entry in old.items():
        if key in new:
            if new[key] != entry:
                yield Move("data", f"{key[1]} has changed{_file_change(entry, new[key])}")
            continue
        # The same bytes under another name: the data were put elsewhere.
        twin = next((other for other, found in came.items() if found["sha256"] == entry["sha256"]), None)
        if twin is None:
            yield Move("data", f"{key[1]} is gone, with {_rows(entry['rows'])}")
        else:
            del came[twin]
            yield Move("data", f"{key[1]} is now {twin[1]}, with the same content", is_decisive=False)
    for key, entry in came.items():
        yield Move("data", f"{key[1]} is new, with {_rows(entry['rows'])}")


def _by_file(data: list[Any]) -> dict[tuple[str, str, int], Any]:
    """Return what is said of each file; one that is named twice is numbered."""
    found: dict[tuple[str, str, int], Any] = {}
    for entry in data:
        number = 0
        while (entry["for"], entry["file"], number) in found:
            number += 1
        found[entry["for"], entry["file"], number] = entry
    return found


def _file_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    parts = []
    if old["rows"] != new["rows"]:
        parts.append(f"{_rows(old['rows'])} -> {_rows(new['rows'])}")
    for key in sorted((old.keys() | new.keys()) - {"for", "file", "rows"}):
        if old.get(key) != new.get(key):
            values = (str(old.get(key))[:12], str(new.get(key))[:12]) if key == "sha256" else None
            change = _change(old.get(key, _NOT_THERE), new.get(key, _NOT_THERE))
            parts.append(f"{key} {values[0]} -> {values[1]}" if values else f"{key} {change}")
    return f" ({', '.join(parts)})" if parts else ""


def _dataset_words(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    digests = f"(sha256 {old['sha256'][:12]} -> {new['sha256'][:12]})"
    if old["rows"] != new["rows"]:
        return f"{_rows(old['rows'])} -> {_rows(new['rows'])} {digests}"
    return f"{_rows(old['rows'])} as before, but other ones or in another order {digests}"


_NOT_THERE = object()


def _leaves(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield what differs between two plain values: its path, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _leaves(old.get(key, _NOT_THERE), new.get(key, _NOT_THERE), (*path, str(key)))
    elif old != new:
        yield path, old, new


def _change(old: Any, new: Any) -> str:
    return f"{_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    if value is _NOT_THERE:
        return "not set"
    if value is None:
        return "none"
    text = value if isinstance(value, str) and value else encode_json(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _share(share: float | None) -> str:
    return "not known" if share is None else f"{share:.2%}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
