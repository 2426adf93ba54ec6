"""Libraries below that speak in the log while they are imported, of what nobody here has asked for."""

import logging

_SPEAKERS = ("torchao", "torch.utils._pytree")  # kernels for other devices, and what torchao tells torch


def hush_imports() -> None:
    """Of those, only errors from now on. To be called before torch is imported."""
    for name in _SPEAKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
