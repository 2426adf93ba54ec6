"""Opens the engines of a loaded omni-modal model: parts that lie on one device run in one engine.

So one thread and one team of cores does the work of all of them, and they take turns, a forward each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from interlace.engine import accelerator
from interlace.engine.engine import Engine
from interlace.engine.memory.footprint import device_bytes, weight_bytes
from interlace.stages.omni.config import OmniEngineArgs
from interlace.stages.omni.engines.budgets import PartNeeds, PartRoom, rooms_on
from interlace.stages.omni.engines.part import PartEngines, PartReplica
from interlace.stages.omni.load import LoadedOmni
from interlace.stages.omni.parts import device_of, modules_of
from interlace.stages.omni.run import Run
from interlace.units import parse_bytes


@dataclass(frozen=True, eq=False)
class _Seat:
    """A replica of a part on its device; `number` tells it from others of the part there."""

    part: str
    run: Run
    modules: Mapping[str, torch.nn.Module]
    device: torch.device
    number: int

    @property
    def work(self) -> Callable[..., object]:
        works: dict[str, Callable[..., object]] = {
            "thinker": self.run.think,
            "talker": self.run.talk,
            "code2wav": self.run.speak,
        }
        return works[self.part]


def open_parts(loaded: LoadedOmni, runs: Mapping[int, Run], args: OmniEngineArgs) -> dict[str, PartEngines]:
    """Every part's engines, by the part's name; `runs` are the works of its families, by their ids.

    Raises `InvalidRequestError` where weights leave no room.
    """
    seats = _seats(loaded, runs)
    rooms = _rooms(seats, args)
    together: dict[tuple[object, ...], list[_Seat]] = {}
    for seat, room in zip(seats, rooms, strict=True):  # what is limited keeps apart from what isn't
        together.setdefault((seat.device, seat.number, room.forwards is None), []).append(seat)
    budgets = dict(zip(seats, (room.forwards for room in rooms), strict=True))
    engines: dict[_Seat, Engine] = {}
    for group in together.values():
        engines |= dict.fromkeys(group, _engine(group, budgets, args))
    replicas: dict[str, list[PartReplica]] = {}
    for seat, room in zip(seats, rooms, strict=True):
        own = PartReplica(engines[seat], frozenset(seat.modules), _most(args, seat.part), room.kv_bytes)
        replicas.setdefault(seat.part, []).append(own)
    return {part: PartEngines(part, several) for part, several in replicas.items()}


def _seats(loaded: LoadedOmni, runs: Mapping[int, Run]) -> list[_Seat]:
    seats: list[_Seat] = []
    for part, families in loaded.families.items():
        for family in families:
            device = device_of(family, part)
            number = sum(seat.part == part and seat.device == device for seat in seats)
            seats.append(_Seat(part, runs[id(family)], modules_of(family, part), device, number))
    return seats


def _most(args: OmniEngineArgs, part: str) -> int:
    """Requests that a replica of a part works at."""
    return args.part(part).max_num_seqs or args.max_num_seqs


def _rooms(seats: list[_Seat], args: OmniEngineArgs) -> list[PartRoom]:
    """One for each seat, in order."""
    rooms: dict[_Seat, PartRoom] = {}
    for device in dict.fromkeys(seat.device for seat in seats):
        there = [seat for seat in seats if seat.device == device]
        needs = [_needs(seat, args) for seat in there]
        rooms |= zip(there, rooms_on(str(device), *_left_on(device), needs), strict=True)
    return [rooms[seat] for seat in seats]


def _left_on(device: torch.device) -> tuple[int | None, int]:
    """Bytes that a device has beside all weights on it, and how many of them are left alone where nobody says; None
    where nobody counts them."""
    usual = device_bytes(device)
    if usual is None:
        return None, 0
    whole = device_bytes(device, 1.0) or usual
    return whole - accelerator.allocated(device), whole - usual


def _needs(seat: _Seat, args: OmniEngineArgs) -> PartNeeds:
    own = args.part(seat.part)
    budget: int | None = None
    if own.memory_budget is not None:
        budget = parse_bytes("memory_budget", own.memory_budget)
    elif own.memory_utilization is not None:
        budget = device_bytes(seat.device, own.memory_utilization)
    elif args.memory_budget is not None:
        budget = parse_bytes("memory_budget", args.memory_budget)
    kv_cache = None if own.kv_cache_gib is None else int(own.kv_cache_gib * 2**30)
    return PartNeeds(seat.part, weight_bytes(seat.modules.values()), budget, kv_cache)


def _engine(group: list[_Seat], budgets: Mapping[_Seat, int | None], args: OmniEngineArgs) -> Engine:
    """One engine for all parts of a group; what their forwards may take is one budget."""
    modules = {name: module for seat in group for name, module in seat.modules.items()}
    lanes = {name: seat.part for seat in group for name in seat.modules}
    device, given = group[0].device, [budgets[seat] for seat in group]
    budget: int | None = None
    if given[0] is not None:
        there = accelerator.allocated(device) if accelerator.counts_memory(device) else weight_bytes(modules.values())
        budget = there + sum(one or 0 for one in given)
    return Engine.over(
        partial(_work, {seat.part: seat.work for seat in group}),
        modules,
        lanes=lanes,
        max_num_seqs=sum(_most(args, seat.part) for seat in group),
        memory_budget=budget,
    )


def _work(works: Mapping[str, Callable[..., object]], part: str, **kwargs: Any) -> object:
    """One request at one part."""
    return works[part](**kwargs)
