"""Environments that are played over NeMo Gym's protocol."""
