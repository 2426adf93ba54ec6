"""A tensor's content as a few bytes, computed once for as long as it lives unchanged."""

import hashlib
import weakref

import torch

from interlace.engine.device.waits import DeviceWait

_digests: dict[int, tuple[weakref.ref[torch.Tensor], int, bytes]] = {}


def digest(tensor: torch.Tensor, why: str) -> bytes:
    """A hash of a tensor's content, computed once for as long as the tensor lives unchanged.

    `why`: of `device.waits`, as the host waits for a tensor that it has not read yet.
    """
    version = -1 if tensor.is_inference() else tensor._version
    known = _digests.get(id(tensor))
    if known is not None and known[0]() is tensor and known[1] == version and version >= 0:
        return known[2]
    with DeviceWait(why):
        data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    value = hashlib.blake2b(data.data, digest_size=16).digest()
    key = id(tensor)
    _digests[key] = (weakref.ref(tensor, lambda _: _digests.pop(key, None)), version, value)
    return value
