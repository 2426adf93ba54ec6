"""Benchmarks: each measures all sides in one run and ends with one JSON line on stdout."""
