"""One request's pipeline: a paused call (strand) on a private view. Knows nothing of fusing or scheduling."""
