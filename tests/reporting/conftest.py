"""
Property tests without a clock: a busy machine makes no law false.
"""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
