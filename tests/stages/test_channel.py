"""Objects over a connection: equal on the other side, large ones through shared memory, odd ones in words."""

import threading
from collections.abc import Iterator
from socket import socketpair
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from interlace.errors import InvalidRequestError, RequestError
from interlace.stages.replicas.processes.channel import ProcessChannel
from stages.mortal import OddError


@pytest.fixture
def ends() -> Iterator[tuple[ProcessChannel, ProcessChannel]]:
    one, other = socketpair()
    channels = ProcessChannel(one.detach()), ProcessChannel(other.detach())
    yield channels
    for channel in channels:
        channel.close()


def sent(ends: tuple[ProcessChannel, ProcessChannel], thing: Any) -> Any:
    sender = threading.Thread(target=ends[0].send, args=(thing,))
    sender.start()
    received = ends[1].receive()
    sender.join(10)
    return received


@pytest.mark.parametrize("side", [2, 500])  # through the connection, and through shared memory
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "F", "I;16"])
def test_pictures_of_every_mode_arrive_as_they_were(
    ends: tuple[ProcessChannel, ProcessChannel], mode: str, side: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (side, side + 1), dtype=np.uint8)
    picture = Image.fromarray(noise.astype(np.uint16)) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    picture.info["comment"] = "kept"

    got = sent(ends, {"images": [picture]})["images"][0]

    assert (got.mode, got.size, got.info["comment"]) == (picture.mode, picture.size, "kept")
    assert got.tobytes() == picture.tobytes()


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (300, 500)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_tensors_arrive_equal_and_can_be_written(
    ends: tuple[ProcessChannel, ProcessChannel], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = torch.randn(shape).mul(9).to(dtype)

    got = sent(ends, [tensor, tensor.T if tensor.ndim == 2 else tensor])

    assert torch.equal(got[0], tensor)
    assert torch.equal(got[1], tensor.T if tensor.ndim == 2 else tensor)
    got[0].zero_()


def test_expanded_and_strided_tensors_arrive_equal(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    tensors = [torch.arange(3)[1].expand(1), torch.zeros(1).expand(4), torch.arange(20).reshape(4, 5)[:, ::2]]
    for got, tensor in zip(sent(ends, tensors), tensors, strict=True):
        assert torch.equal(got, tensor)


def test_arrays_and_many_messages_keep_their_order(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    arrays = [np.full((2, 40_000 * (i % 3)), i) for i in range(9)]
    threading.Thread(target=lambda: [ends[0].send(array) for array in arrays]).start()
    for array in arrays:
        assert np.array_equal(ends[1].receive(), array)


def test_errors_keep_their_type_and_what_they_say(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    got = sent(ends, InvalidRequestError("steps is 0; expected 1", "steps"))
    assert (type(got), str(got), got.param) == (InvalidRequestError, "steps is 0; expected 1", "steps")


def test_errors_that_pickle_cannot_read_come_as_words(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    got = sent(ends, OddError("lost", 3))
    assert type(got) is RequestError
    assert "OddError: lost 3" in str(got)


def test_the_end_of_the_other_side_is_told(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    ends[0].close()
    with pytest.raises((EOFError, OSError)):
        ends[1].receive()
