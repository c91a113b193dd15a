"""
Dataset files without a plan: are they all right, what do they hold, and ready for a trainer.
"""
