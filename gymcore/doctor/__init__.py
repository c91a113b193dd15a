"""
Is this installation well? `examine` looks at it, `ask` asks a model whether it answers, and of a disk `look` asks in a
second what `crash` kills, tears and cuts the power to find out.
"""

from gymcore.doctor.check import Check
from gymcore.doctor.crashes import crash
from gymcore.doctor.disk import look
from gymcore.doctor.installation import examine

__all__ = ["Check", "crash", "examine", "look"]
