"""Rows of Ray Data become rows with images, as `interlace t2i` makes them; what was checkpointed isn't made again."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from interlace.bulk.input.rows import image_seed

NUM_ROWS = 100
WAIT_S = 300


def test_parquet_in_parquet_out_and_a_second_run_makes_only_what_is_missing(ray_here: Any, tmp_path: Path) -> None:
    from ray.data.checkpoint import CheckpointConfig

    import interlace.ray

    rows = [
        {"id": f"row-{i}", "caption": f"a red circle {i}", "num_inference_steps": 2 + i % 2} for i in range(NUM_ROWS)
    ]
    rows[7]["caption"] = " "
    (tmp_path / "in").mkdir()
    for part in range(2):
        table = pyarrow.Table.from_pylist(rows[part::2])
        pyarrow.parquet.write_table(table, tmp_path / "in" / f"{part}.parquet")

    def run(source: Path) -> None:
        context = ray_here.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.checkpoint_config = CheckpointConfig(
            id_column="id", checkpoint_path=str(tmp_path / "checkpoint"), delete_checkpoint_on_success=False
        )
        made = interlace.ray.generate(
            ray_here.data.read_parquet(str(source)),
            columns={"prompt": "caption"},
            replicas=1,
            sampling_params={"height": 64, "width": 64},
            max_num_seqs=8,
        )
        write = threading.Thread(target=made.write_parquet, args=(str(tmp_path / "out"),), daemon=True)
        write.start()
        write.join(WAIT_S)
        assert not write.is_alive()  # a Ray without a core that is free waits for ever

    run(tmp_path / "in" / "0.parquet")
    first = {path.name for path in (tmp_path / "out").glob("*.parquet")}
    run(tmp_path / "in")
    assert first < {path.name for path in (tmp_path / "out").glob("*.parquet")}
    found = pyarrow.parquet.read_table(tmp_path / "out").to_pylist()
    assert sorted(row["id"] for row in found) == sorted(row["id"] for row in rows)
    check(found, rows)


def check(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    from interlace import Omni

    by_id = {row["id"]: row for row in found}
    assert by_id["row-7"]["image"] == b""
    assert "the prompt is empty" in by_id["row-7"]["error"]
    good = [row for row in rows if row["id"] != "row-7"][::7]
    asked = [
        {"prompt": row["caption"], "num_inference_steps": row["num_inference_steps"], "height": 64, "width": 64,
         "seed": image_seed(0, row["id"], 0)}
        for row in good
    ]  # fmt: skip
    with Omni("demo", max_num_seqs=8) as omni:
        alone = omni.generate(asked, raise_on_error=True)
    for row, output in zip(good, alone, strict=True):
        made = by_id[row["id"]]
        assert (made["error"], made["width"], made["caption"]) == ("", 64, row["caption"])
        assert json.loads(made["parameters"])["num_inference_steps"] == row["num_inference_steps"]
        picture = np.asarray(Image.open(io.BytesIO(made["image"])), dtype=int)
        assert np.abs(picture - np.asarray(output.images[0], dtype=int)).max() <= 1
