"""
What the crash tests share: the seed from which all chance comes, and which `GYM_CRASH_SEED` changes.
"""

from __future__ import annotations

import os
import random

import pytest

SEED = int(os.environ.get("GYM_CRASH_SEED", "0"))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """All chance of a test: the same in every run, and another with another GYM_CRASH_SEED."""
    return random.Random(f"{SEED}/{request.node.name}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say how to do it again."""
    if report.failed and "tests/crash/" in report.nodeid:
        report.sections.append(("to repeat it", f"GYM_CRASH_SEED={SEED} python -m pytest -m '' '{report.nodeid}'"))
