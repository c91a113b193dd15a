"""The numbers of a run as JSON lines, while it runs."""
