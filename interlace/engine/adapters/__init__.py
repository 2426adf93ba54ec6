"""Adapters (LoRA) row by row: requests with different ones, or none, share a forward.

Owns what peft's layers are told for a forward, and the forward in which rows have adapters of their own. Knows nothing
of files, requests or queues: an adapter is a name that the module's layers know.
"""
