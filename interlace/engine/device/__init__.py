"""The device's own time: where the host waits for it and why, streams, and memory of the host that it copies to.

Owns what is asked of torch's module for a device beside its memory and random state (`engine/accelerator.py`). Knows
nothing of calls or requests. On a CPU nothing here does anything.
"""
