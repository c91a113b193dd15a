"""
Does this disk keep its promises? `look` asks in a second; `crash` kills, tears and cuts the power to find out.
"""

from gymcore.doctor.check import Check
from gymcore.doctor.crashes import crash
from gymcore.doctor.disk import look

__all__ = ["Check", "crash", "look"]
