"""Requests on their way between stages: where each stands, slots, deadlines. Knows nothing of models."""
