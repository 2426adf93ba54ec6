"""Many clients at once, some of whom leave: nothing is lost, nothing leaks, every picture is the one made alone.

`INTERLACE_SOAK_S` sets how long (seconds).
"""

import asyncio
import gc
import os
import random
import resource
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve.live import Live, picture, png, until

SECONDS = float(os.environ.get("INTERLACE_SOAK_S", "8"))
CLIENTS = 64
# Rows of a forward change the order of sums: pixels may differ by one in 255, and do so rarely.
MOST_APART = 2


@dataclass(frozen=True)
class Wish:
    """One picture that clients ask for again and again."""

    size: str
    steps: int
    seed: int
    edit: bool

    def post(self, **more: Any) -> dict[str, Any]:
        values = {"prompt": f"a star {self.seed}", "size": self.size, "num_inference_steps": self.steps,
                  "seed": self.seed, **more}  # fmt: skip
        if not self.edit:
            return {"url": "/v1/images/generations", "json": values}
        fields = {name: str(value).lower() if value is True else str(value) for name, value in values.items()}
        return {"url": "/v1/images/edits", "files": {"image": ("a.png", png())}, "data": fields}


WISHES = [
    Wish(size, steps, seed, edit)
    for seed, (size, steps, edit) in enumerate(
        [("64x64", 2, False), ("64x80", 3, False), ("96x64", 1, False), ("64x64", 4, False), ("64x64", 2, True),
         ("80x80", 1, True)]
    )
]  # fmt: skip


def pixels(answer: httpx.Response) -> np.ndarray:
    return np.asarray(picture(answer.json()["data"][0]["b64_json"]), dtype=np.int16)


async def visitor(http: httpx.AsyncClient, draw: random.Random, alone: list[np.ndarray], seen: Counter) -> None:
    """One thing that a client does: ask, stream and leave, ask and leave, or ask for later and change its mind."""
    index = draw.randrange(len(WISHES))
    wish, what = WISHES[index], draw.random()
    if what < 0.6:
        answer = await http.post(**wish.post())
        seen[answer.status_code] += 1
        if answer.status_code == 200:
            apart = int(np.abs(pixels(answer) - alone[index]).max())
            seen["equal" if apart <= MOST_APART else f"apart by {apart}"] += 1
        elif answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.2)
    elif what < 0.75:
        async with http.stream("POST", **wish.post(stream=True, partial_images=1)) as stream:
            async for _ in stream.aiter_lines():
                break
        seen["left a stream"] += 1
    elif what < 0.9:
        try:
            await asyncio.wait_for(http.post(**wish.post()), draw.random() * 0.2)
            seen["quick"] += 1
        except TimeoutError:
            seen["left"] += 1
    else:
        answer = await http.post(**wish.post(**{"async": True}))
        seen[answer.status_code] += 1
        if answer.status_code == 202:
            deleted = await http.delete(f"/v1/requests/{answer.json()['id']}")
            seen["deleted"] += deleted.status_code == 200


async def crowd(url: str, alone: list[np.ndarray], seconds: float) -> Counter:
    seen: Counter = Counter()
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)

    async def client(number: int) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=180, limits=limits) as http:
            while time.monotonic() < end:
                await visitor(http, draw, alone, seen)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return seen


def num_handles() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_a_crowd_of_clients(server: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server.http() as http:
        alone = [pixels(http.post(**wish.post())) for wish in WISHES]
    asyncio.run(crowd(server.url, alone, min(3.0, SECONDS / 2)))
    before, memory = num_handles(), resident_mib()
    seen = asyncio.run(crowd(server.url, alone, SECONDS))
    registry = server.state.registry
    until(lambda: not registry.live() and not registry.admission.live)
    until(lambda: num_handles() <= before + 5)
    grown = resident_mib() - memory
    print(dict(seen), f"resident memory {memory:.0f} MiB, {grown:+.0f} MiB")
    assert seen["equal"] == seen[200] > 0
    assert set(seen) <= {"equal", 200, 202, 429, "left", "left a stream", "quick", "deleted"}
    assert dict(registry.admission.by_client) == {}
    assert not any(lane.omni.engine.live() for lane in server.state.models.all)
    assert not list(tmp_path.iterdir()), "files that were left behind"
    assert (
        grown < 600
    )  # what the allocator keeps; pictures that stayed would be gigabytes in an hour (INTERLACE_SOAK_S)
