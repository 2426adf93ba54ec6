"""Whether a shared forward gives each call what it would get alone: what was seen so far, and what is tried for it."""
