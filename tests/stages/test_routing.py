"""Where requests go, who is suspected of a death, when a process is started again: rules without processes."""

from dataclasses import dataclass
from typing import Any

from interlace.request import ARSamplingParams, Request, SamplingParams
from interlace.stages.replicas.backoff import MAX_IN_A_ROW, Backoff
from interlace.stages.replicas.routing import Load, Speed, choose
from interlace.stages.replicas.suspicion import blamed, cohort
from interlace.stages.replicas.work import ReplicaWork, work_of

SMALL, LARGE = ReplicaWork(1.0, ("64",)), ReplicaWork(10.0, ("512",))


def test_a_request_goes_where_it_is_done_first() -> None:
    assert choose([Load(0, 50.0, 1.0), Load(1, 3.0, 1.0)], SMALL) == 1
    assert choose([Load(0, 50.0, 100.0), Load(1, 3.0, 1.0)], SMALL) == 0  # much to do, and quick at it


def test_short_requests_keep_away_from_a_long_one_however_many_they_are() -> None:
    loads = {0: [100.0], 1: []}
    for _ in range(20):
        place = choose([Load(i, sum(left), 1.0, (), len(left)) for i, left in loads.items()], SMALL)
        loads[place].append(SMALL.amount)
    assert len(loads[1]) == 20


def test_among_near_equals_the_one_with_the_same_shape() -> None:
    assert choose([Load(0, 10.0, 1.0, {LARGE.key}), Load(1, 10.5, 1.0, {SMALL.key})], SMALL) == 1
    assert choose([Load(0, 10.0, 1.0, {LARGE.key}), Load(1, 20.0, 1.0, {SMALL.key})], SMALL) == 0


def test_idle_replicas_take_turns() -> None:
    counts = [0, 0, 0]
    for _ in range(9):
        counts[choose([Load(i, float(n), None, {SMALL.key}, n) for i, n in enumerate(counts)], SMALL)] += 1
    assert counts == [3, 3, 3]


def test_a_replica_whose_speed_is_not_known_counts_as_usual() -> None:
    assert choose([Load(0, 10.0, 2.0), Load(1, 9.0, None)], SMALL) == 1


def test_speed_counts_busy_time_alone() -> None:
    speed = Speed()
    assert speed.value is None
    speed.busy(10.0)
    speed.done(6.0, 12.0)
    speed.idle(13.0)
    speed.busy(100.0)
    speed.done(2.0, 101.0)
    assert speed.value == 2.0


def work(**sampling: Any) -> ReplicaWork:
    defaults = {"height": 1000, "width": 1000, "num_inference_steps": 10}
    return work_of(Request(request_id="r", prompt="", sampling=SamplingParams(**sampling)), defaults)


def test_work_follows_steps_size_and_number_of_images() -> None:
    assert work().amount == 10
    assert work(num_inference_steps=5, height=2000).amount == 10
    assert work(num_images=3).amount == 30
    assert work(height=64).key != work().key
    written = Request(request_id="r", prompt="", sampling=ARSamplingParams(max_tokens=7))
    assert work_of(written, {}).amount == 7


@dataclass
class Someone:
    order: int
    deaths: int = 0
    begun: bool = True


def test_whoever_had_begun_is_blamed_and_all_where_nobody_had() -> None:
    begun, queued = Someone(0), Someone(1, begun=False)
    assert blamed([begun, queued]) == [begun]
    assert blamed([queued]) == [queued]


def test_one_that_kills_is_found_at_its_third_death_and_nobody_else_is() -> None:
    everyone = [Someone(i) for i in range(16)]
    poison, fate = everyone[9], set[int]()
    for victim in everyone:
        victim.deaths = 1
    left, num_deaths = list(everyone), 1
    while left:
        group = cohort(left)
        if poison in group:
            num_deaths += 1
            for victim in group:
                victim.deaths += 1
            fate |= {victim.order for victim in group if victim.deaths >= 3}
            left = [one for one in left if one.deaths < 3]
        else:
            left = [one for one in left if one not in group]
    assert fate == {9}
    assert num_deaths == 3


def test_the_first_restart_is_at_once_and_short_lives_wait_longer_and_longer() -> None:
    backoff = Backoff()
    assert backoff.died(3.0) == 0.0
    waits = [backoff.died(1.0) for _ in range(12)]
    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[3]
    assert waits[-1] == 30.0
    assert backoff.died(1000.0) == 0.0


def test_a_process_that_never_opens_is_given_up() -> None:
    backoff = Backoff()
    for _ in range(MAX_IN_A_ROW):
        assert not backoff.hopeless
        backoff.died(None)
    assert backoff.hopeless
    backoff.opened()
    assert not backoff.hopeless
