"""A zoo of tiny pipelines with random weights: `FAMILIES` maps a name to what builds it and to requests for it."""

from importlib import import_module
from importlib.util import find_spec

from .family import Family

_MODULES = (
    "flux", "flux2", "qwen", "dit", "stable_diffusion", "controlnet", "kandinsky", "video", "films", "caching", "more",
)  # fmt: skip


def _collect() -> dict[str, Family]:
    families: dict[str, Family] = {}
    for module in _MODULES:
        name = f"{__name__}.{module}"
        if find_spec(name) is None:
            continue
        for key, family in import_module(name).FAMILIES.items():
            if key in families:
                raise ValueError(f"two families are named {key}")
            families[key] = family
    return families


FAMILIES: dict[str, Family] = _collect()

__all__ = ["FAMILIES", "Family"]
