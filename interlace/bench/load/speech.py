"""`interlace bench stages --model`: requests with speech through an omni-modal model, against its stock `generate`."""

import statistics
import sys
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console

from interlace.bench import sides
from interlace.bench.machine import describe_machine
from interlace.bench.result import command_of, write_result
from interlace.errors import InvalidRequestError
from interlace.omni import Omni
from interlace.stages.omni.families import omni_stage
from interlace.stages.omni.stage import OmniModelStage
from interlace.stages.parse import parse

_ASKED = ("Say hello.", "Tell me of a red circle.", "What is a star?", "Count to three, slowly, please.", "Sing.",
          "Read: the moon is up.", "Who are you?", "Is it raining where you are, and why?")  # fmt: skip


class SpeechWay:
    """`interlace`: all requests at once. `stock`: one after the other through the model's own `generate`."""

    def __init__(self, name: str, model: str, requests: list[dict[str, Any]]) -> None:
        self._stock, self._requests = name == "stock", requests
        self._omni = Omni(stages=[omni_stage(model, max_num_seqs=len(requests))])
        stage = self._omni.pipeline.links[0].stage
        assert isinstance(stage, OmniModelStage)
        self._stage = stage
        self()  # learns and verifies, so that the measured runs are the steady state

    def __call__(self, facts: bool = False) -> Any:
        """Seconds, texts and waveforms; or what the model is and how its forwards were shared."""
        if facts:
            shared = {name: part.statistics().mean_rows for name, part in self._stage.parts.items()}
            return {"parameters": self._stage.describe()["parameters"], "mean_rows": shared}
        start = perf_counter()
        if self._stock:
            made = [self._alone(request) for request in self._requests]
        else:
            outputs = self._omni.generate(self._requests, raise_on_error=True)
            made = [(str(output.text), output.audio[0][0] if output.audio else np.zeros(0)) for output in outputs]
        return perf_counter() - start, made

    def close(self) -> None:
        self._omni.close()

    def _alone(self, request: dict[str, Any]) -> tuple[str, Any]:
        stage, model = self._stage, self._stage.family.model
        inputs = stage.inputs.make(parse(request, None, self._omni.configs, "alone"))
        torch.manual_seed(request["seed"])
        ids, waveform = model.generate(
            **inputs,
            speaker=request["voice"],
            thinker_max_new_tokens=request["max_tokens"],
            talker_max_new_tokens=request["speech"]["max_tokens"],
            talker_do_sample=False,
        )
        written = ids[0, inputs["input_ids"].shape[1] :]
        text = stage.inputs.tokenizer.decode(written, skip_special_tokens=True)
        return text, waveform.reshape(-1).float().cpu().numpy()


def speech(
    *, model: str, num_requests: int = 8, max_tokens: int = 32, repeats: int = 3, output: Path | None = None
) -> None:
    """Both ways, each in a process of its own; a line on stderr, one JSON object last on stdout."""
    asked = {"model": model, "num_requests": num_requests, "repeats": repeats, "output": output}
    command = command_of("stages", asked)
    for name, value in (("num_requests", num_requests), ("repeats", repeats)):
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; expected at least 1", name)
    requests = [_request(i, max_tokens) for i in range(num_requests)]
    names = ("interlace", "stock")
    with sides.opened({name: partial(SpeechWay, name, model, requests) for name in names}) as ways:
        runs = sides.in_turn(ways, repeats)
        facts = ways["interlace"](True)
    seconds = {name: [run[0] for run in several] for name, several in runs.items()}
    pairs = list(zip(runs["interlace"][0][1], runs["stock"][0][1], strict=True))
    result = {
        "command": command,
        "bench": "speech",
        "model": model,
        "num_requests": num_requests,
        "max_tokens": max_tokens,
        "repeats": repeats,
        "seconds": {name: round(statistics.median(several), 3) for name, several in seconds.items()},
        "ratio": sides.paired_ratio(seconds["stock"], seconds["interlace"]),
        "equal_texts": all(one[0] == other[0] for one, other in pairs),
        "max_difference": max(_difference(one[1], other[1]) for one, other in pairs),
        **facts,
        **describe_machine(),
    }
    console = Console(file=sys.stderr)
    console.print(f"{num_requests} requests with speech: {result['ratio']:.2f}x as fast as stock, one by one")
    write_result(result, output)


def _request(index: int, max_tokens: int) -> dict[str, Any]:
    spoken = {"modalities": ("text", "audio"), "speech": {"do_sample": False, "max_tokens": 2 * max_tokens}}
    voice = ("Chelsie", "Ethan")[index % 2]
    return {"prompt": _ASKED[index % len(_ASKED)], "seed": index, "max_tokens": max_tokens, "voice": voice, **spoken}


def _difference(one: Any, other: Any) -> float:
    """Of two waveforms; 1 where they are not equally long."""
    return float(np.abs(one - other).max(initial=0.0)) if len(one) == len(other) else 1.0
