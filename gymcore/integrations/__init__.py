"""
One dataset for any trainer: `export()` writes a composition as the rows that a trainer reads.

One file for each format; each row carries the trainer's own routing column, and enough to be routed back to our
environments: `environment`, `task_id`, and where the format allows it the whole row as JSON text.
"""

from gymcore.integrations.exporting import FORMATS, Export, export

__all__ = ["FORMATS", "Export", "export"]
