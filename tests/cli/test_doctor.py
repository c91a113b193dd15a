"""
`gym doctor` as a process: what it prints, what it leaves, and how it ends.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.testing import LoopbackEndpoint, PluginFolder, says
from gymcore.testing.endpoint import status

Gym = Callable[..., subprocess.CompletedProcess[str]]
LOOKED_AT = ("python", "package", "script", "plugins", "needs", "folder", "lock", "store")
KEY = "sk-0123456789abcdef"


def test_a_look_takes_a_second_and_leaves_nothing(gym: Gym, tmp_path: Path) -> None:
    """
    A line for each question, exit code 0, and no folder that was not there before.
    """
    done = gym("doctor")

    assert (done.returncode, done.stderr) == (0, "")
    told = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[:2] for line in told] == [[name, "well"] for name in LOOKED_AT]
    assert list(tmp_path.iterdir()) == []


def test_crashes_are_told_one_line_a_kind(gym: Gym, tmp_path: Path) -> None:
    """
    Real processes are killed; every kind has a verdict, and the scratch folder is gone.
    """
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    done = gym("doctor", "mine", "--crash", "3", "--seed", "5")

    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("kill", "torn tail", "power cut", "full disk"):
        assert re.search(
            rf"^{kind} +well +.*: nothing lost, twice, damaged or done again \(\d+\.\d s\)$", done.stdout, re.MULTILINE
        )
    assert "3 processes killed" in done.stdout
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_json_is_one_document_on_stdout(gym: Gym) -> None:
    """
    For whoever checks a cluster's disks by script.
    """
    done = gym("doctor", "--crash", "1", "--json", "--seed", "3")

    value = json.loads(done.stdout)
    assert (value["folder"], value["seed"]) == ("runs", 3)
    assert [check["name"] for check in value["checks"]] == [
        *LOOKED_AT,
        "kill",
        "torn tail",
        "power cut",
        "full disk",
    ]
    keys = {"name", "is_well", "found", "remarks", "seconds"}
    assert all(check["is_well"] and set(check) == keys for check in value["checks"])


def test_what_is_not_well_is_named_with_what_to_try(gym: Gym, tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    A plugin that is broken, and one whose distribution needs something else; exit code 1, and none is imported.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("ill"))
    files = {"ill/__init__.py": "raise SystemExit('imported')\n", "ill/gym.yaml": "gym_api: 1\n"}
    files |= {"worse/__init__.py": "raise SystemExit('imported')\n", "worse/gym.yaml": "gym_api: [\n"}
    groups = {"gymcore.environments": {"ill": "ill:Ill", "worse": "worse:Worse"}}
    folder.install("gym-plugin-ill", files, groups, dependencies=["click<2"])

    done = gym("doctor", "--json", folder=folder)

    assert (done.returncode, done.stderr) == (1, "not well: plugins, plugin, needs\n")
    bad = [check for check in json.loads(done.stdout)["checks"] if not check["is_well"]]
    told = {check["found"]: check["remarks"] for check in bad}
    worse = next(remarks for found, remarks in told.items() if "worse" in found)
    assert worse[-1].startswith("try: pip install --force-reinstall gym-plugin-ill")
    ill = next(
        remarks for found, remarks in told.items() if found.startswith("gym-plugin-ill needs click<2, but click")
    )
    assert ill[0].startswith("do not install 'click<2' here: gymcore needs click")
    assert ill[-1] == "no virtual environment of its own helps, because gymcore is in that, too"


def test_a_gymcore_without_what_it_needs_is_told_so(gym: Gym, tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    Also where nothing else works, because a plugin has brought a pydantic of long ago: no traceback, and what to try.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("old"))
    info = folder.folder / "pydantic-1.10.dist-info"
    for part in (folder.folder / "pydantic", info):
        part.mkdir()
    (folder.folder / "pydantic" / "__init__.py").write_text("VERSION = '1.10'\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pydantic\nVersion: 1.10\n")

    done = gym("doctor", "--json", folder=folder)
    other = gym("run", "--env", "example_multi_step", folder=folder)

    assert (done.returncode, done.stderr) == (1, "not well: needs, folder\n")
    checks = json.loads(done.stdout)["checks"]
    (wrong,) = (check for check in checks if check["found"].startswith("gymcore needs pydantic"))
    assert "but pydantic 1.10 is installed" in wrong["found"]
    assert wrong["remarks"][-1].startswith("try: pip install 'pydantic")
    assert other.returncode == 4
    assert other.stderr.startswith("PluginError: gymcore needs pydantic")
    assert "Traceback" not in other.stderr


def test_what_cannot_be_asked_or_written_keeps_nothing_else_from_being_looked_at(
    gym: Gym, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """
    A model whose plugin does not have what it needs, and a folder that is a file: both are told in one document.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("poor"))
    files = {"poor/__init__.py": "raise SystemExit('imported')\n", "poor/gym.yaml": "gym_api: 1\n"}
    groups = {"gymcore.models": {"poor": "poor:Poor"}}
    folder.install("gym-plugin-poor", files, groups, dependencies=["gym-plugin-nowhere"])
    (tmp_path / "file").write_text("mine")

    poor = gym("doctor", "--json", "--model", "poor", folder=folder)
    both = gym("doctor", "--json", "--model", "poor", "file", folder=folder)

    assert (poor.returncode, poor.stderr) == (1, "not well: needs, model\n")
    names = [(check["name"], check["is_well"]) for check in json.loads(poor.stdout)["checks"]]
    assert names[-4:] == [("model", False), ("folder", True), ("lock", True), ("store", True)]
    assert both.returncode == 2
    (wrong,) = (check for check in json.loads(both.stdout)["checks"] if check["name"] == "folder")
    assert wrong["found"].startswith("the folder cannot be written: ")


def test_an_empty_address_is_a_wrong_request(gym: Gym) -> None:
    """
    As a variable that is not set leaves it: nothing would be asked.
    """
    done = gym("doctor", "--endpoint", "")

    assert done.returncode == 2
    assert "--endpoint is empty" in done.stderr


def test_an_endpoint_is_asked_on_request_and_its_key_is_never_shown(gym: Gym) -> None:
    """
    One real request with the key: well when it is answered, and not well when it is refused, does not come, or nobody
    listens.
    """
    with LoopbackEndpoint(says("OK"), status(401, f"no such key: {KEY}"), status(503)) as endpoint:
        asked = ("doctor", "--endpoint", endpoint.base_url, "--json")
        well, refused = (gym(*asked, POLICY_API_KEY=KEY) for _ in range(2))
        late = gym(*asked, POLICY_API_KEY=KEY)
        sent = [request.headers.get("authorization") for request in endpoint.requests]

    def model(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert KEY not in done.stdout + done.stderr
        (check,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "model")
        return dict(check)

    assert set(sent) == {f"Bearer {KEY}"}
    assert well.returncode == 0
    assert "is reachable, accepts what it was sent, and answered" in model(well)["found"]
    for done in (refused, late):
        assert (done.returncode, done.stderr) == (1, "not well: model\n")
        assert any(remark.startswith("try: ") for remark in model(done)["remarks"])
    assert "503" in str(model(late))  # and not after half a minute of retries, that nobody has answered
    assert "401" in model(refused)["found"] or "key" in model(refused)["found"]


def test_what_is_set_without_anything_to_ask_is_a_wrong_request(gym: Gym) -> None:
    """
    And so is a model that is not installed, in the words of any plan.
    """
    assert gym("doctor", "--set", "models.policy.config.model=x").returncode == 2
    done = gym("doctor", "--model", "openai_modle")
    assert done.returncode == 2
    assert "no model is named 'openai_modle'" in done.stderr


def test_a_folder_that_cannot_be_written_is_a_wrong_request(gym: Gym, tmp_path: Path) -> None:
    """
    One line, exit code 2, and nothing is touched.
    """
    (tmp_path / "file").write_text("mine")

    done = gym("doctor", "file", "--crash", "1")

    assert done.returncode == 2
    assert done.stderr.startswith("RunFolderError: the folder cannot be written: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_is_told_as_such(gym: Gym, tmp_path: Path) -> None:
    """
    Exit code 5 where no file may grow, which is no mistake of the doctor's.
    """
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$0" -m gymcore doctor', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("StorageError: the folder cannot be written: File too large")


@pytest.mark.parametrize(
    ("signals", "pause_s"),
    [
        pytest.param([signal.SIGINT], 0, id="Ctrl-C"),
        pytest.param([signal.SIGTERM], 0, id="TERM"),
        pytest.param([signal.SIGTERM] * 3, 0.005, id="TERM three times"),
        pytest.param([signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGINT], 0.001, id="all at once"),
    ],
)
def test_a_signal_leaves_nothing_behind(tmp_path: Path, signals: list[signal.Signals], pause_s: float) -> None:
    """
    No scratch folder, no process that goes on, no traceback; exit code 130, however often it is asked to stop.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "gymcore", "doctor", "--crash", "100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("store"):
        assert process.poll() is None
    end = time.monotonic() + 60
    while not list(tmp_path.glob("runs/.gym-doctor-*/kill/1")):
        assert time.monotonic() < end
        time.sleep(0.01)

    for number in signals:
        process.send_signal(number)
        time.sleep(pause_s)
    _, talk = process.communicate(timeout=60)

    assert (process.returncode, talk.strip()) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []
