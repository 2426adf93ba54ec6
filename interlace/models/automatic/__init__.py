"""`--optimize auto`: what is equal within rounding, and was measured to be quicker on this machine with this model.

Owns what is tried and what is remembered of it. Knows nothing of requests or engines.
"""
