"""
Is it safe on disk? `collect()` writes a stream of rollouts into a run folder and gives a Collection.
"""

from gymcore.collection.collector import collect
from gymcore.collection.journal import Collection, Journal, read_collection, read_rollouts

__all__ = ["Collection", "Journal", "collect", "read_collection", "read_rollouts"]
