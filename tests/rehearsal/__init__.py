"""A GPU that isn't there: what the engine would do with one, and every time that it would wait for it."""
