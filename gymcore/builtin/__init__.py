"""The core's own components; they enter through the same entry points as everybody else's."""
