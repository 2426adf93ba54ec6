"""One engine over two ranks gives what one process gives; a rank that dies or hangs ends the group, and no more."""

import os
import signal
import time
from typing import Any

import pytest
from diffusers.models._modeling_parallel import ParallelConfig
from torch import nn

from interlace.engine.group.context import ContextParallel
from interlace.errors import EngineDeadError, InvalidRequestError
from tests.group.zoo_group import TIMEOUT_S, build, group_engine
from tests.test_families import TOLERANCE, difference, stock
from tests.zoo import FAMILIES

ODD = {"flux": [{"height": 36, "width": 36, "max_sequence_length": 47}, {"height": 36, "width": 44}], "qwen-image": []}


def requests(name: str) -> list[dict[str, Any]]:
    """Those of the family, in mixed steps and guidance, and some with odd numbers of tokens."""
    first = FAMILIES[name].requests
    return [*first(), *({**first()[i], **change} for i, change in enumerate(ODD.get(name, [])))]


@pytest.mark.parametrize(
    ("name", "degrees"),
    [
        ("flux", {"ulysses_degree": 2}),
        ("qwen-image", {"ulysses_degree": 2}),
        ("sdxl", {"rows_degree": 2}),
        pytest.param("flux", {"rows_degree": 2}, marks=pytest.mark.slow),
        pytest.param("qwen-image", {"rows_degree": 2}, marks=pytest.mark.slow),
        pytest.param("flux", {"rows_degree": 2, "ulysses_degree": 2}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_give_what_one_process_gives(name: str, degrees: dict[str, int]) -> None:
    alone = [stock(build(name), kwargs) for kwargs in requests(name)]
    with group_engine(name, **degrees) as (engine, lead, _):
        counts = []
        for _ in range(2):  # the second time every kind is known, and nothing is compared with running alone
            for result, expected in zip(engine.map(requests(name)), alone, strict=True):
                assert difference(result, expected) < TOLERANCE
            counts.append(lead.num_forwards)
    assert lead.alone == {}
    assert counts[1] > counts[0] > 0


def test_a_follower_that_is_killed_ends_requests_with_an_error_and_leaves_nothing_waiting() -> None:
    with group_engine("flux", rows_degree=2) as (engine, lead, followers):
        assert not isinstance(engine.map(requests("flux"))[0], BaseException)
        os.kill(followers.pids[0], signal.SIGKILL)
        started = time.monotonic()
        outputs = engine.map(requests("flux"))
        assert time.monotonic() - started < TIMEOUT_S
    assert any(isinstance(output, EngineDeadError) for output in outputs)
    assert lead.broken is not None


def test_a_follower_that_hangs_is_given_up_after_the_timeout() -> None:
    with group_engine("flux", timeout_s=15.0, ulysses_degree=2) as (engine, _, followers):
        assert not isinstance(engine.map(requests("flux")[:2])[0], BaseException)
        os.kill(followers.pids[0], signal.SIGSTOP)
        started = time.monotonic()
        outputs = engine.map(requests("flux"))
        assert time.monotonic() - started < TIMEOUT_S
    assert all(isinstance(output, EngineDeadError) for output in outputs)


def test_what_other_ranks_cannot_see_and_an_error_of_its_own_stay_on_the_first_rank() -> None:
    with group_engine("sdxl", rows_degree=2) as (engine, lead, _):
        before = engine.map(requests("sdxl")[:2])
        divided = lead.num_forwards
        bad = engine.map([{**requests("sdxl")[0], "prompt_embeds": nn.Identity()}])[0]
        assert isinstance(bad, Exception)
        again = engine.map(requests("sdxl")[:2])
        assert lead.num_forwards > divided > 0
        part = next(part for part in engine.pipeline.unet.modules() if hasattr(part, "processor"))
        part.processor = type(part.processor)()  # its owner's change, here alone
        divided = lead.num_forwards
        changed = engine.map(requests("sdxl")[:2])
        assert lead.num_forwards == divided
    for results in (changed, again):
        assert all(difference(one, other) < TOLERANCE for one, other in zip(results, before, strict=True))


def test_a_model_without_a_plan_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match=r"UNet2DConditionModel.*--rows-degree"):
        ContextParallel("unet", build("sdxl").unet, ParallelConfig())
