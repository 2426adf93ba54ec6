"""One copy in a process of its own: what is sent, how it is started and watched. Knows nothing of other copies."""
