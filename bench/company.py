"""What company may not change, counted on the built-in model: `python bench/company.py` at the root.

The step cache's pictures alone and beside 15 others, the rows that 64 requests over 8 prompts encode, and the bits of
200 requests in batch-invariant mode that come, go and are aborted at random.
"""

import json
import random
import time
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from interlace import Engine
from interlace.bench.load.pictures import drawn
from interlace.bench.machine import describe_model
from interlace.models.loader import LoadedModel, load_model

_COLOURS, _SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "star", "heart")


def request(model: LoadedModel, number: int, **changes: Any) -> dict[str, Any]:
    """One of many: prompt, size, steps and guidance follow from `number`."""
    rng = random.Random(number)
    kwargs = {
        "prompt": f"a {rng.choice(_COLOURS)} {rng.choice(_SHAPES)} on a white background",
        "height": rng.choice((64, 80, 96)),
        "width": rng.choice((64, 80, 96)),
        "num_inference_steps": rng.randint(4, 12),
        "true_cfg_scale": rng.choice((1.0, 2.0, 3.5)),
        "output_type": "np",
        "generator": torch.Generator().manual_seed(number),
    }
    return {**model.defaults, **kwargs, **changes}


def step_cache(model: LoadedModel) -> dict[str, Any]:
    """Largest difference of a request alone and beside 15 others, all with a step cache."""
    with Engine(model.pipeline, cache_type="step_cache", cache_threshold=0.2) as engine:
        alone = [drawn(engine, [request(model, number)])[0] for number in range(16)]
        together = drawn(engine, [request(model, number) for number in range(16)])
        skipped = engine.stats()["skipped"]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True))
    return {"max_abs_diff": difference, "skipped_calls": skipped}


def prompt_cache(model: LoadedModel) -> dict[str, Any]:
    """Rows that the text encoders saw for 64 requests over 8 prompts, all there at once."""
    with Engine(model.pipeline, prompt_cache_bytes=2**24, verify_fusion="off") as engine:
        made = [
            request(model, number, prompt=f"a {_COLOURS[number % 4]} {_SHAPES[number // 4 % 2]}", true_cfg_scale=1.0)
            for number in range(64)
        ]
        drawn(engine, made)
        stats = engine.stats()
    rows = {name: rows for name, rows in stats["rows"].items() if name.startswith("text_encoder")}
    return {"requests": 64, "prompts": 8, "rows": rows, "cache": stats["prompt_cache"]}


def batch_invariant(model: LoadedModel, count: int = 200, different: int = 50) -> dict[str, Any]:
    """How many of `count` requests have the bits that they have alone."""
    with Engine(model.pipeline, batch_invariant=True) as engine:
        alone = {number: drawn(engine, [request(model, number)])[0] for number in tqdm(range(different), disable=None)}
        rng, futures = random.Random(0), []
        for place in range(count):
            number = rng.randrange(different)
            futures.append((number, engine.submit(request(model, number))))
            if rng.random() < 0.2:
                engine.submit(request(model, rng.randrange(different)), request_id=f"doomed-{place}")
                time.sleep(rng.random() * 0.2)
                engine.abort(f"doomed-{place}")
        equal = sum(np.array_equal(f.result().images[0], alone[number]) for number, f in tqdm(futures, disable=None))
        aborted = engine.stats()["requests"]
    return {"requests": count, "bit_equal": equal, "engine": aborted}


def main() -> None:
    model = load_model("demo")
    model.pipeline.set_progress_bar_config(disable=True)
    result = {
        "command": "python bench/company.py",
        **describe_model(model),
        "step_cache": step_cache(model),
        "prompt_cache": prompt_cache(model),
        "batch_invariant": batch_invariant(model),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
