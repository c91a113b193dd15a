"""
Is it safe on disk? `collect()` writes a stream of rollouts into a run folder and gives a Collection.
"""

from gymcore.collection.collector import collect
from gymcore.collection.finished import Finished
from gymcore.collection.journal import Collection, Journal, read_collection, read_rollouts
from gymcore.collection.poisoned import read_poisoned

__all__ = ["Collection", "Finished", "Journal", "collect", "read_collection", "read_poisoned", "read_rollouts"]
