"""
What does it mean? `report()` reads a run folder and gives numbers per environment and in total, then words.
"""

from gymcore.reporting.statistics import Interval, mean_interval, pass_at_k
from gymcore.reporting.summary import EnvironmentReport, Report, report

__all__ = ["EnvironmentReport", "Interval", "Report", "mean_interval", "pass_at_k", "report"]
