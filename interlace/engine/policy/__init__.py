"""Decisions: which call next, how many rows, what fits. Knows nothing of torch."""
