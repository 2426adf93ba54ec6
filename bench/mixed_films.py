"""Six films of mixed lengths and sizes: how many forwards their denoiser runs one by one and together.

`python bench/mixed_films.py [FAMILY ...]`: tiny models with random weights from `tests/zoo`, requests as
`tests/test_packing.py` has them, padding up to 15 per cent. Ends with one JSON line; `difference` is the largest to
stock diffusers alone, of pictures in [0, 1].
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.test_families import difference, stock
from tests.test_packing import PACKED, films, requests, run
from tests.zoo import FAMILIES


def main() -> None:
    """A line a family on stderr, and one JSON line."""
    found = {}
    for name in sys.argv[1:] or [name for name in PACKED if films(name)]:
        pipeline = FAMILIES[name].build()
        results, stats = run(pipeline, name, resolution_tolerance=0.15)
        _, apart = run(pipeline, name, resolution_tolerance=0.0)
        pairs = zip(requests(name), results, strict=True)
        largest = max(difference(result, stock(pipeline, kwargs)) for kwargs, result in pairs)
        shared = {"one_size_a_forward": apart["denoised"], "together": stats["denoised"]}
        found[name] = {"requests": len(results), **shared, "difference": largest, "unfused": stats["unfused"]}
        print(f"{name}: {found[name]}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
