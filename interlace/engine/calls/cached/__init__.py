"""Caches of keys and values among the arguments of calls, as one cache for one forward. Knows nothing of strands."""
