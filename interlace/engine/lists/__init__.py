"""Requests with equal parameters as one call of the pipeline with lists: less Python for each, the same forwards."""
