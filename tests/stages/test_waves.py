"""Waves of a language model that can't be batched continuously, with a model that is held by the hand."""

import threading
from types import SimpleNamespace
from typing import Any

import torch

from interlace.stages.language.waves import WaveManager

SETTINGS = {"seed": -1, "temperature": 0.0, "top_k": 0, "top_p": 1.0}


class Held:
    """Writes token 1 for ever, one for each `go.release()`."""

    device = torch.device("cpu")
    generation_config = SimpleNamespace(eos_token_id=0, pad_token_id=0)

    def __init__(self) -> None:
        self.asked: list[int] = []  # lengths of the prompts that it was given
        self.go = threading.Semaphore(0)

    def generate(self, ids: torch.Tensor, stopping_criteria: Any, **options: Any) -> None:
        self.asked += [ids.shape[1]] * len(ids)
        over = torch.zeros(len(ids), dtype=torch.bool)
        while not over.all():
            assert self.go.acquire(timeout=60)
            ids = torch.cat([ids, torch.ones(len(ids), 1, dtype=ids.dtype)], dim=1)
            over = stopping_criteria(ids, None)


def ended(manager: WaveManager) -> str:
    while True:
        result = manager.get_result(60)
        assert result is not None
        if result.is_finished():
            return result.request_id


def test_what_was_cancelled_in_the_line_never_runs_and_in_a_wave_ends_at_the_next_token() -> None:
    model = Held()
    manager = WaveManager(model, max_num_seqs=4)  # type: ignore[arg-type]
    manager.add_request([5, 6], request_id="runs", max_new_tokens=1000, **SETTINGS)
    manager.add_request([5, 6, 7], request_id="waits", max_new_tokens=1000, **SETTINGS)
    manager.add_request([5], request_id="last", max_new_tokens=1, **SETTINGS)
    manager.cancel_request("waits")
    manager.cancel_request("runs")
    model.go.release(2)
    assert {ended(manager), ended(manager), ended(manager)} == {"runs", "waits", "last"}
    assert 3 not in model.asked
    manager.stop()
    assert manager._known == {}
    assert not manager._waiting
