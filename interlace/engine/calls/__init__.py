"""Module calls: what their arguments mean, which may share a forward, how one forward runs. Knows no requests."""
