"""Families of omni-modal models, each one file over transformers' stock code. Knows nothing of engines."""
