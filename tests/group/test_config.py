"""What asks for a group: degrees and the seeds' variables."""

import pytest
import torch

from interlace.bulk.launch.nodes import NodeSettings, Placement, xdit_nodes
from interlace.engine.group.config import GroupConfig, xdit_degrees
from interlace.errors import InvalidRequestError


def test_degrees_multiply() -> None:
    config = GroupConfig(ulysses_degree=2, ring_degree=3, rows_degree=4)
    assert (config.context_degree, config.world_size) == (6, 24)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_degrees_that_make_no_sense_are_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="ulysses_degree"):
        GroupConfig(ulysses_degree=value)  # type: ignore[arg-type]


def test_the_variables_of_xdit_are_read() -> None:
    found = xdit_degrees(
        {
            "DG_XDIT_ULYSSES_DEGREE": "4",
            "DG_XDIT_RING_DEGREE": "2",
            "DG_XDIT_DATA_PARALLEL_DEGREE": "3",
            "DG_XDIT_USE_CFG_PARALLEL": "true",
        }
    )
    assert found.group == GroupConfig(ulysses_degree=4, ring_degree=2, rows_degree=2)
    assert found.replicas == 3
    assert xdit_degrees({}).group.world_size == 1


@pytest.mark.parametrize("text", ["two", "0", "-2", "1.5"])
def test_variables_that_are_no_degree_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="DG_XDIT_RING_DEGREE"):
        xdit_degrees({"DG_XDIT_RING_DEGREE": text})


@pytest.mark.parametrize("name", ["DG_XDIT_PIPEFUSION_DEGREE", "DG_XDIT_PP_DEGREE"])
def test_pipefusion_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="PipeFusion"):
        xdit_degrees({name: "2"})
    assert xdit_degrees({name: "1"}).group.world_size == 1


def test_xdits_data_parallelism_is_processes_and_a_process_gets_the_gpus_of_its_ranks() -> None:
    environment = {"DG_XDIT_DATA_PARALLEL_DEGREE": "2", "DG_XDIT_ULYSSES_DEGREE": "2"}
    if not torch.cuda.is_available():
        assert xdit_nodes(NodeSettings(), environment).num_processes == 2
    assert xdit_nodes(NodeSettings(num_processes=3), environment).num_processes == 3
    four = Placement(num_processes=4, devices=("0", "1", "2", "3"))
    assert four.in_groups(2) == Placement(num_processes=2, devices=("0,1", "2,3"))
    assert four.in_groups(1) is four
    with pytest.raises(InvalidRequestError, match="groups of 3"):
        four.in_groups(3)
