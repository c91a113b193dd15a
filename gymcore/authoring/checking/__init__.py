"""
What is wrong with a plugin: five phases, from its source to the conformance kit's suite in a fresh environment.
"""

from gymcore.authoring.checking.checker import check_installed, check_project
from gymcore.authoring.checking.findings import CLAIMS, PHASES, Claim, Finding, Outcome
from gymcore.authoring.checking.installed import find_installed
from gymcore.authoring.checking.project import Project, read_project

__all__ = [
    "CLAIMS",
    "PHASES",
    "Claim",
    "Finding",
    "Outcome",
    "Project",
    "check_installed",
    "check_project",
    "find_installed",
    "read_project",
]
