"""
Is this installation well? `examine` looks at it, `ask` asks a model whether it answers, and of a disk `look` asks in a
second what `crash` kills, tears and cuts the power to find out.

`examine` works where gymcore itself does not have what it needs; so the others are imported from their modules.
"""

from gymcore.doctor.check import Check
from gymcore.doctor.installation import examine

__all__ = ["Check", "examine"]
