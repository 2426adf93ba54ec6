"""Which sizes a model makes, known without its weights. Knows nothing of rows and requests."""
