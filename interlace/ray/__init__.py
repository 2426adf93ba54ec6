"""Interlace on a Ray cluster: replicas as actors for bulk runs, a step of Ray Data, an application of Ray Serve.

Knows nothing of flags and commands. Needs the extra `ray`; nothing here is imported before it is asked for.
"""

from typing import Any

_HOMES = {"generate": "interlace.ray.data", "app": "interlace.ray.serving.app"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interlace.ray' has no attribute {name!r}; expected {' or '.join(_HOMES)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
