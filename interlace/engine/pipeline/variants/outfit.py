"""What a request asks to have on its pipeline's modules: an IP-Adapter scale, a processor, anything that can be put on.

It becomes the request's variant: nobody else has it, and requests that ask for the same share their forwards.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Outfit:
    """`put_on(view)` changes the modules of a request's own view as its user would; equal `key`s do the same.

    It runs in the engine's thread when the first request that asks for it starts, and must be quick: no loading.
    """

    key: Hashable
    put_on: Callable[[DiffusionPipeline], None]


def ip_adapter_scale(scale: object) -> Outfit:
    """The scale of the IP-Adapters that are loaded, as `set_ip_adapter_scale` takes it."""
    return Outfit(("ip_adapter_scale", repr(scale)), lambda view: view.set_ip_adapter_scale(scale))


def together(*outfits: Outfit) -> Outfit:
    """Several, put on one after the other."""

    def put_on(view: DiffusionPipeline) -> None:
        for outfit in outfits:
            outfit.put_on(view)

    return Outfit(tuple(outfit.key for outfit in outfits), put_on)
