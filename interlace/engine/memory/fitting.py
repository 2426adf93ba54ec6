"""Makes forwards fit the memory budget: measures them, decodes in slices or tiles, and names what fits no way."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.memory.footprint import Footprint
from interlace.engine.policy.memory import MemoryModel
from interlace.errors import TooLargeError
from interlace.units import show_bytes

logger = logging.getLogger("interlace.engine")
_PROBE = 16  # latent pixels a side of the piece by which a decode is predicted
_TILED = " in tiles"


class Fitting:
    """One engine's forwards against its budget. Does nothing where there is none."""

    def __init__(self, memory: MemoryModel, device: torch.device | None = None) -> None:
        self.memory = memory
        self._device = device or torch.device("cpu")
        self._seen: set[str] = set()
        self._tiled: set[str] = set()

    def refusal(self, call: ModuleCall, shape: str, rows: int) -> TooLargeError | None:
        """The error for a call that does not fit even alone, where its forward has `rows`, in slices or in tiles."""
        if self.memory.budget is None or not shape:
            return None
        if shape not in self._seen:
            self._seen.add(shape)
            self.memory.hold(sum(leaf.nbytes for leaf in call.leaves if isinstance(leaf, torch.Tensor)))
            self._predict_decode(call, shape)
        size = self.memory.too_large(shape, 1 if _can(call, "use_slicing") else rows)
        if size is not None and _can(call, "use_tiling"):
            size = self.memory.too_large(shape + _TILED, 1)
        return None if size is None else TooLargeError(self.memory.refusal(shape, size))

    def within(self, call: ModuleCall, shape: str, rows: int) -> contextlib.AbstractContextManager[None]:
        """Around a forward of calls like `call`: measured once by shape and rows; a decode as small as it must be."""
        if self.memory.budget is None or not shape:
            return contextlib.nullcontext()
        return self._within(call, shape, rows)

    @contextlib.contextmanager
    def _within(self, call: ModuleCall, shape: str, rows: int) -> Iterator[None]:
        switches = self._switches(call, shape, rows)
        tiled = "use_tiling" in switches
        wanted = self.memory.wanted(shape, rows) and not switches
        if tiled and shape not in self._tiled:
            self._tiled.add(shape)
            self._tell_tiles(shape)
            wanted = True
        with _switched_on(call.target.module, switches):
            if not wanted:
                yield
                return
            with Footprint(self._device) as footprint:
                yield
        self.memory.observe(shape + _TILED if tiled else shape, 1 if tiled else rows, footprint.bytes)

    def _switches(self, call: ModuleCall, shape: str, rows: int) -> list[str]:
        """What of a VAE to turn on. By prediction from size alone, so that a size is always decoded in the same way."""
        needed = self.memory.needed(shape, rows) if call.target.method == "decode" else None
        if needed is None or needed <= (self.memory.budget or 0):
            return []
        names = ["use_slicing"] if self.memory.too_large(shape, 1) is None else ["use_slicing", "use_tiling"]
        return [name for name in names if _can(call, name)]

    @torch.no_grad()
    def _predict_decode(self, call: ModuleCall, shape: str) -> None:
        """Bytes of a decode, whole and in tiles, from one of a small piece of its latents: they grow with the area."""
        latents = next((leaf for leaf in call.leaves if isinstance(leaf, torch.Tensor) and leaf.ndim >= 4), None)
        if call.target.method != "decode" or latents is None:
            return
        height, width = latents.shape[-2:]
        piece = latents[:1, ..., : min(height, _PROBE), : min(width, _PROBE)].clone()
        args = tuple(piece if value is latents else value for value in call.args)
        kwargs = {name: piece if value is latents else value for name, value in call.kwargs.items()}
        try:
            with Footprint(self._device) as footprint:
                call.target.run(*args, **kwargs)
        except Exception as error:
            logger.info("what %s takes can't be predicted (%s)", call.target.label, error)
            return
        per_position = footprint.bytes / (piece.shape[-2] * piece.shape[-1])
        self.memory.observe(shape, 1, int(per_position * height * width))
        side = getattr(call.target.module, "tile_latent_min_size", None)
        if isinstance(side, int):
            self.memory.observe(shape + _TILED, 1, int(per_position * min(height, side) * min(width, side)))

    def _tell_tiles(self, shape: str) -> None:
        logger.warning(
            "%s is decoded in tiles, as enable_vae_tiling does: whole it takes %s of %s; pictures differ a little from "
            "those decoded whole",
            shape,
            show_bytes(self.memory.needed(shape, 1) or 0),
            show_bytes(self.memory.budget or 0),
        )


def _can(call: ModuleCall, switch: str) -> bool:
    return call.target.method == "decode" and hasattr(call.target.module, switch)


@contextlib.contextmanager
def _switched_on(module: Any, switches: list[str]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in switches}
    for name in switches:
        setattr(module, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
