"""Resources servers of an installed NeMo Gym, each hosted in a process of its own."""
