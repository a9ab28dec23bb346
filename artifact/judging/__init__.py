"""Obtained beside expected: bands, orderings, verdicts."""
