"""A group that `torchrun` starts: its processes find each other, the first draws, and what can't be is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interlace.bulk.launch.nodes import NodeSettings, place
from interlace.engine.group.config import GroupConfig, LaunchedRank, launched_rank
from interlace.errors import InvalidRequestError
from tests.tiny import save_tiny_flux

_WAIT_S = 600
_SCRIPT = """
import json, sys
from interlace import Omni
from interlace.engine.group.config import GroupConfig
from interlace.engine.tickets import lobby

lobby._GATHER_S = 120.0  # all start together, however long they are on their way
requests = [{"prompt": f"a red circle {i}", "seed": i, "num_inference_steps": 1 + i, "guidance_scale": 2.0 + i}
            for i in range(3)]
with Omni(sys.argv[1], parallel=GroupConfig(rows_degree=2)) as omni:  # the second process never gets further
    outputs = omni.generate(requests, raise_on_error=True)
    print(json.dumps({"ranks": omni.describe()["ranks"], "divided": omni.engine.lead.num_forwards,
                      "pixels": [list(output.images[0].tobytes()) for output in outputs]}))
"""


def test_two_processes_of_torchrun_are_one_group_that_draws_what_one_process_draws(tmp_path: Path) -> None:
    model, script = save_tiny_flux(tmp_path / "model"), tmp_path / "draw.py"
    script.write_text(_SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, str(script), str(model)], capture_output=True, text=True, timeout=_WAIT_S)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 1  # of the first alone
    told = json.loads(lines[0])
    assert told["ranks"] == 2
    assert told["divided"] > 0
    from interlace import Omni

    with Omni(str(model)) as alone:
        outputs = alone.generate(
            [{"prompt": f"a red circle {i}", "seed": i, "num_inference_steps": 1 + i, "guidance_scale": 2.0 + i}
             for i in range(3)]
        )  # fmt: skip
    for pixels, output in zip(told["pixels"], outputs, strict=True):
        apart = [abs(one - other) for one, other in zip(pixels, output.images[0].tobytes(), strict=True)]
        assert max(apart) <= 1  # of 255


def test_without_degrees_all_that_were_started_take_rows_and_other_numbers_are_refused() -> None:
    launched = LaunchedRank(rank=1, world_size=4, local_rank=1)
    assert launched.group(GroupConfig()).rows_degree == 4
    both = GroupConfig(rows_degree=2, ulysses_degree=2)
    assert launched.group(both) is both
    with pytest.raises(InvalidRequestError, match="started 4 processes, the degrees multiply to 2"):
        launched.group(GroupConfig(ulysses_degree=2))


def test_variables_of_torchrun_are_read_and_others_of_the_same_name_are_not() -> None:
    own = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert launched_rank({**own, "TORCHELASTIC_RUN_ID": "none"}) == LaunchedRank(rank=1, world_size=2, local_rank=1)
    assert launched_rank(own) is None
    assert launched_rank({**own, "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1"}) is None


def test_bulk_runs_under_torchrun_are_refused_with_what_starts_processes_there() -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    with pytest.raises(InvalidRequestError, match=r"torchrun has started 2 processes.*--num-gpus 2"):
        place(NodeSettings(), environment=variables)
    assert place(NodeSettings(node_rank=0, num_nodes=2), environment=variables).num_nodes == 2
