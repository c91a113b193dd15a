"""
What helps to write a plugin: `write_project()` makes a whole package, ready to be changed.
"""

from gymcore.authoring.scaffold import KINDS, LICENSES, Project, write_project

__all__ = ["KINDS", "LICENSES", "Project", "write_project"]
