"""Accepted requests as things: what they ask, who may come in, where they stand."""
