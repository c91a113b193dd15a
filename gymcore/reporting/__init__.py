"""
What does it mean? `report()` reads a run folder and gives numbers per environment and in total, then words.
"""

from gymcore.reporting.report import EnvironmentReport, Report, report
from gymcore.reporting.statistics import Interval, mean_interval, pass_at_k

__all__ = ["EnvironmentReport", "Interval", "Report", "mean_interval", "pass_at_k", "report"]
