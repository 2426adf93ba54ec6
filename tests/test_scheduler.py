"""The scheduler's promises; nothing here needs torch."""

from collections.abc import Hashable
from dataclasses import replace

from interlace.config import EngineConfig, Policy
from interlace.engine.policy.cost import CostModel, packed_shape
from interlace.engine.policy.line import Line, Waiting
from interlace.engine.policy.pending import DECODE, DENOISE, ENCODE, Pending
from interlace.engine.policy.scheduler import Scheduler


def call(
    name: str,
    signature: Hashable = "a",
    *,
    stage: int = DENOISE,
    rows: int = 1,
    priority: int = 0,
    module: str = "unet",
) -> Pending:
    return Pending(name, module, signature, stage, rows, rows * 64, int(name), priority)


def names(group: list[Pending]) -> list[str]:
    return [pending.request_id for pending in group]


def waiting(number: int, key: Hashable = "k", *, since: float = 0.0, priority: int = 0) -> Waiting:
    return Waiting(str(number), key, since, number, priority)


def line(*requests: Waiting, policy: Policy = "fifo") -> Line:
    made = Line(policy)
    made.add(requests)
    return made


def test_all_calls_of_one_signature_share_oldest_first() -> None:
    scheduler = Scheduler(EngineConfig())
    assert names(scheduler.next_forward([call("3"), call("1"), call("2")], {})) == ["1", "2", "3"]


def test_an_incompatible_call_at_the_head_takes_no_company_and_holds_nobody_up() -> None:
    scheduler = Scheduler(EngineConfig())
    assert names(scheduler.next_forward([call("1", "big"), call("2"), call("3")], {})) == ["1"]
    assert names(scheduler.next_forward([call("2"), call("3")], {})) == ["2", "3"]


def test_a_call_without_signature_runs_alone() -> None:
    scheduler = Scheduler(EngineConfig())
    assert names(scheduler.next_forward([call("1", None), call("2", None)], {})) == ["1"]


def test_rows_tokens_and_learned_limits_bound_a_forward() -> None:
    calls = [call(str(i), rows=2) for i in range(6)]
    assert len(Scheduler(EngineConfig(max_batch_rows=5)).next_forward(calls, {})) == 2
    assert len(Scheduler(EngineConfig(max_batch_tokens=4 * 64)).next_forward(calls, {})) == 2
    assert len(Scheduler(EngineConfig()).next_forward(calls, {"a": 6})) == 3


def test_a_request_larger_than_the_limit_still_runs() -> None:
    assert names(Scheduler(EngineConfig(max_batch_rows=1)).next_forward([call("1", rows=2)], {})) == ["1"]


def test_encoding_and_decoding_go_before_denoising_and_priority_before_all() -> None:
    scheduler = Scheduler(EngineConfig())
    calls = [call("1"), call("2", "d", stage=DECODE), call("3", "e", stage=ENCODE)]
    assert names(scheduler.next_forward(calls, {})) == ["3"]
    assert names(scheduler.next_forward(calls[:2], {})) == ["2"]
    assert names(scheduler.next_forward([*calls, call("4", "p", priority=1)], {})) == ["4"]


def test_requests_join_while_others_run_up_to_max_num_seqs() -> None:
    scheduler = Scheduler(EngineConfig(max_num_seqs=3))
    admitted, wait = scheduler.admit(line(*map(waiting, range(5))), 1, 0.0)
    assert (admitted, wait) == (["0", "1"], 0.0)


def test_nobody_starts_while_others_leave_one_after_the_other() -> None:
    scheduler = Scheduler(EngineConfig(max_batch_rows=1))
    queue, running = line(waiting(3), waiting(4)), [call("0", stage=DECODE), call("1", stage=DECODE), call("2")]
    assert names(scheduler.next_forward(running, {})) == ["0"]
    assert scheduler.admit(queue, 2, 0.0)[0] == []
    assert names(scheduler.next_forward(running[1:], {})) == ["1"]
    assert scheduler.admit(queue, 1, 0.0)[0] == ["3", "4"]


def test_a_decode_that_has_to_wait_itself_holds_nobody_up() -> None:
    scheduler = Scheduler(EngineConfig(max_batch_rows=1))
    running = [call("0", stage=DECODE), call("1", priority=1), call("2", priority=1)]
    assert names(scheduler.next_forward(running, {})) == ["1"]
    assert scheduler.admit(line(waiting(3)), 3, 0.0)[0] == ["3"]


def test_who_comes_while_others_get_to_their_denoiser_starts_with_all_who_came_meanwhile() -> None:
    scheduler, later = Scheduler(EngineConfig(max_num_seqs=8)), line(waiting(1), waiting(2))
    assert scheduler.admit(line(waiting(0)), 0, 0.0)[0] == ["0"]
    scheduler.next_forward([call("0", "e", stage=ENCODE)], {})
    assert scheduler.admit(later, 1, 0.0)[0] == []
    scheduler.next_forward([call("0")], {})
    assert scheduler.admit(later, 1, 0.0)[0] == ["1", "2"]


def test_nobody_waits_long_for_those_who_never_get_to_a_denoiser() -> None:
    scheduler, later = Scheduler(EngineConfig(max_num_seqs=8)), line(waiting(1))
    scheduler.admit(line(waiting(0)), 0, 0.0)
    forwards = 0
    while not scheduler.admit(later, 1, 0.0)[0]:
        scheduler.next_forward([call("0", "e", stage=ENCODE)], {})
        forwards += 1
    assert forwards == 8
    scheduler.admit(line(waiting(0)), 0, 0.0)
    scheduler.next_forward([], {})  # all that run wait for something outside
    assert scheduler.admit(line(waiting(1)), 1, 0.0)[0] == ["1"]


def test_a_wave_holds_equal_requests_up_to_the_first_that_differs() -> None:
    scheduler = Scheduler(EngineConfig(max_num_seqs=4, step_execution=False))
    queue = line(waiting(0), waiting(1), waiting(2, "other"), waiting(3))
    assert scheduler.admit(queue, 0, 0.0) == (["0", "1"], 0.0)
    assert scheduler.admit(queue, 1, 0.0) == ([], 0.0), "nothing joins a wave that runs"
    assert scheduler.admit(queue, 0, 0.0) == (["2"], 0.0)
    assert scheduler.admit(queue, 0, 0.0) == (["3"], 0.0)


def test_a_wave_waits_for_company_and_no_longer_than_told() -> None:
    scheduler = Scheduler(EngineConfig(max_num_seqs=2, step_execution=False, request_batch_max_wait_ms=20))
    admitted, wait = scheduler.admit(line(waiting(0, since=1.0)), 0, 1.005)
    assert admitted == []
    assert abs(wait - 0.015) < 1e-9
    assert scheduler.admit(line(waiting(0, since=1.0)), 0, 1.021) == (["0"], 0.0)
    assert scheduler.admit(line(waiting(0, since=1.0), waiting(1, since=1.001)), 0, 1.002) == (["0", "1"], 0.0)


def test_in_a_loop_of_two_modules_those_one_call_behind_catch_up_and_then_share() -> None:
    scheduler = Scheduler(EngineConfig())
    controls = [call(name, name, module="controlnet") for name in "123"]  # three that can't share, then one that can
    ran = []
    pending = {control.request_id: control for control in controls}
    for _ in range(4):
        group = scheduler.next_forward(pending.values(), {})
        ran.append(names(group))
        pending |= {done.request_id: call(done.request_id, "a") for done in group}
    assert ran == [["1"], ["2"], ["3"], ["1", "2", "3"]]


def timed(name: str, remaining: float = 0.0, *, since: float = 0.0, deadline: float | None = None) -> Pending:
    return replace(call(name, name), remaining=remaining, since=since, deadline=deadline)


def test_sjf_takes_the_request_with_the_least_work_left() -> None:
    scheduler = Scheduler(EngineConfig(policy="sjf"))
    assert names(scheduler.next_forward([timed("1", 9.0), timed("2", 1.0), timed("3", 5.0)], {})) == ["2"]


def test_sjf_starves_nobody() -> None:
    scheduler = Scheduler(EngineConfig(policy="sjf"))
    long = timed("1", 20.0, since=0.0)
    now, served = 0.0, 0
    while names(scheduler.next_forward([long, timed(str(2 + served), 1.0, since=now)], {}, now)) != ["1"]:
        now, served = now + 1.0, served + 1  # an endless stream of short requests, one a second
        assert served < 100
    assert served > 10


def test_deadline_takes_the_earliest_first_and_what_can_not_be_met_last() -> None:
    scheduler = Scheduler(EngineConfig(policy="deadline"))
    calls = [timed("1"), timed("2", 1.0, deadline=30.0), timed("3", 1.0, deadline=20.0), timed("4", 9.0, deadline=12.0)]
    taken = []
    while calls:
        group = scheduler.next_forward(calls, {}, 10.0)
        taken += names(group)
        calls = [c for c in calls if c not in group]
    assert taken == ["3", "2", "1", "4"]


def test_priority_comes_before_every_policy() -> None:
    for policy in ("fifo", "sjf", "deadline"):
        scheduler = Scheduler(EngineConfig(policy=policy))  # type: ignore[arg-type]
        urgent = replace(timed("9", 99.0, since=9.0), priority=1)
        assert names(scheduler.next_forward([timed("1", 1.0, deadline=1.0), urgent], {}, 0.0)) == ["9"]


def test_auto_leaves_rows_out_that_do_not_pay() -> None:
    cost = CostModel()
    for rows in (1, 2, 4, 8):
        for _ in range(9):
            cost.observe("s", rows, max(2, rows))
    calls = [replace(call(str(i)), shape="s") for i in range(8)]
    assert len(Scheduler(EngineConfig(), cost).next_forward(calls, {})) == 2
    assert len(Scheduler(EngineConfig(max_batch_rows=None), cost).next_forward(calls, {})) == 8
    assert len(Scheduler(EngineConfig(max_batch_rows=5), cost).next_forward(calls, {})) == 5


def test_sizes_share_where_that_was_measured_to_pay_and_now_and_then_where_not() -> None:
    calls = [replace(call(str(i)), shape=shape, places=shape) for i, shape in enumerate(("big", "big", "turned"))]
    cost = CostModel()
    scheduler = Scheduler(EngineConfig(), cost)
    assert len(scheduler.next_forward(calls, {})) == 3  # nothing known yet: tried
    for shape, rows, seconds in (("big", 2, 1.0), ("turned", 1, 0.6), (packed_shape("big"), 3, 1.5)):
        cost.know(shape, rows, seconds)
    assert len(scheduler.next_forward(calls, {})) == 3
    for _ in range(20):
        cost.observe(packed_shape("big"), 3, 1.7)
    sizes = [len(scheduler.next_forward(calls, {})) for _ in range(32)]
    assert sizes.count(3) == 2
    assert sizes.count(2) == 30


def sized(name: str, shape: str, tokens: int) -> Pending:
    return replace(call(name), shape=shape, places=shape, tokens=tokens)


def test_much_smaller_pictures_share_only_where_measured_forwards_say_so() -> None:
    calls = [sized("0", "big", 64), sized("1", "big", 64), sized("2", "small", 16)]
    cost = CostModel()
    scheduler = Scheduler(EngineConfig(), cost)
    assert names(scheduler.next_forward(calls, {})) == ["0", "1"]  # nothing is known
    for rows, seconds in ((1, 1.0), (2, 1.4), (3, 1.8)):
        cost.know("big", rows, seconds)
    cost.know("small", 1, 0.9)
    assert names(scheduler.next_forward(calls, {})) == ["0", "1"]  # 1.8, as if all were big, but nobody has seen it
    for _ in range(3):
        cost.observe("other", 1, 1000.0)  # a hundredth of it may go into tries
    assert names(scheduler.next_forward(calls, {})) == ["0", "1", "2"]
    cost.know(packed_shape("big"), 3, 1.9)
    assert names(scheduler.next_forward(calls, {})) == ["0", "1", "2"]  # beside 1.4 + 0.9
    assert names(Scheduler(EngineConfig(resolution_tolerance=0.1), cost).next_forward(calls, {})) == ["0", "1"]
    for _ in range(9):
        cost.observe(packed_shape("big"), 3, 2.4)
    assert names(scheduler.next_forward(calls, {})) == ["0", "1"]


def test_sizes_join_one_by_one_as_long_as_that_pays() -> None:
    cost = CostModel()
    scheduler = Scheduler(EngineConfig(), cost)
    for rows, seconds in ((1, 1.0), (2, 1.1), (3, 5.0)):
        cost.know("big", rows, seconds)
    cost.know("middle", 1, 0.5)
    cost.know("small", 1, 0.5)
    cost.know(packed_shape("big"), 2, 1.1)
    cost.know(packed_shape("big"), 3, 5.0)
    calls = [sized("0", "big", 64), sized("1", "small", 16), sized("2", "middle", 48)]
    assert names(scheduler.next_forward(calls, {})) == ["0", "2"]  # the nearest first; three would be dearer


def test_the_queue_follows_the_policy() -> None:
    queue = [replace(waiting(1), remaining=5.0), replace(waiting(2), remaining=1.0)]
    shortest = Scheduler(EngineConfig(policy="sjf", max_num_seqs=1))
    assert shortest.admit(line(*queue, policy="sjf"), 0, 0.0)[0] == ["2"]
    assert Scheduler(EngineConfig(max_num_seqs=1)).admit(line(*queue), 0, 0.0)[0] == ["1"]


def test_lanes_take_turns_and_each_keeps_its_own_order() -> None:
    scheduler = Scheduler(EngineConfig())
    writes = [replace(call(str(i), "w", module="thinker"), lane="thinker") for i in (1, 2)]
    speaks = [replace(call(str(i), "s", module="talker"), lane="talker") for i in (3, 4)]
    ran = [names(scheduler.next_forward([*writes, *speaks], {})) for _ in range(3)]
    assert ran == [["1", "2"], ["3", "4"], ["1", "2"]]
    reads = replace(call("5", "r", stage=ENCODE, module="thinker"), lane="thinker")
    assert names(scheduler.next_forward([*writes, reads, *speaks], {})) == ["5"]  # what lets requests join comes first
