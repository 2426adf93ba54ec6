"""Requests as the tensors that a model takes, by its own processor. Knows nothing of what is made of them."""
