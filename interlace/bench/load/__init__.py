"""Benches that run many requests."""
