"""HTTP itself: socket, gate, keys, bodies, errors, streams. Knows no models."""
