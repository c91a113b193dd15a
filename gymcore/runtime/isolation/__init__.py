"""
Environments in interpreters of their own: what blocks, crashes or floods there reaches nobody here.

`placement` is the side of the run, `child` the side of the worker process; between them go JSON frames over a pair of
connected sockets, and nothing is pickled.
"""

from gymcore.runtime.isolation.launch import Launch
from gymcore.runtime.isolation.placement import Isolated, open_isolated

__all__ = ["Isolated", "Launch", "open_isolated"]
