"""`remote`: an environment that somebody serves."""
