"""Which sizes a model makes, known before its weights are loaded. Knows nothing of rows and requests."""
