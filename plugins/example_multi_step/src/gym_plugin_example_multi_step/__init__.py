"""Look synonyms up one at a time, then submit their values in order."""
