"""The engine's own share of the time on the built-in model at its own size: `python bench/engine_share.py` at the root.

Own is what remains of the loop beside forwards and the pipelines' own code: admission, scheduling, analysis, fusing,
splitting, whose state it is. Every number of requests runs twice; the second time, with every kind known, counts.
"""

import json
from typing import Any

import torch

from interlace import Engine
from interlace.bench.machine import describe_model
from interlace.models.loader import LoadedModel, load_model

_COLOURS, _SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "star", "heart")


def request(model: LoadedModel, number: int) -> dict[str, Any]:
    """A prompt and a seed of its own; everything else as the model's defaults say."""
    prompt = f"a {_COLOURS[number % 4]} {_SHAPES[number // 4 % 4]} on a white background"
    own = {"prompt": prompt, "output_type": "np", "generator": torch.Generator().manual_seed(number)}
    return {**model.defaults, **own}


def share(model: LoadedModel, requests: int) -> dict[str, Any]:
    """Seconds of forwards, pipelines and engine for so many requests at once."""
    with Engine(model.pipeline) as engine:
        engine.map([request(model, number) for number in range(requests)])
        before = engine.stats()["seconds"]
        engine.map([request(model, number) for number in range(requests)])
        after = engine.stats()["seconds"]
    seconds = {name: round(after[name] - before[name], 4) for name in after}
    return {
        "requests": requests,
        "seconds": seconds,
        "engine_share": round(seconds["engine"] / sum(seconds.values()), 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    model = load_model("demo")
    model.pipeline.set_progress_bar_config(disable=True)
    print(json.dumps({"runs": [share(model, requests) for requests in (1, 4, 8)], "machine": describe_model(model)}))


if __name__ == "__main__":
    main()
