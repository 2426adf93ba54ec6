"""One node's part of a bulk run: its own images, by one process or many; if it is the last, also everyone's results."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from interlace.bulk.input.rows import Row
from interlace.bulk.launch.launcher import NodeOutcome, Workers
from interlace.bulk.launch.nodes import Placement
from interlace.bulk.launch.partition import PartitionRows
from interlace.bulk.launch.worker import Orders, Work, run_partition
from interlace.bulk.made import NOUNS
from interlace.bulk.output.failures import gather_failures, read_failures
from interlace.bulk.output.locks import FolderLock
from interlace.bulk.output.manifest import FAILURES, SUMMARY
from interlace.bulk.output.parts import gather_parts, parts
from interlace.bulk.output.sink import Sink
from interlace.bulk.plan import jobs_to_do, survey
from interlace.bulk.progress import Tally
from interlace.bulk.report.outlook import Existing
from interlace.bulk.report.report import Result, announce, report


def run_node(work: Work, placement: Placement, command: Sequence[str]) -> int:
    """Makes this node's images; returns the exit status. `command` is what is being run, for worker processes.

    Raises `InvalidRequestError` where no row can be used, or the folder is taken.
    """
    started = time.perf_counter()
    work.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock.beside_others(work.folder, placement.node)
    try:
        num_jobs = _look(work, placement)
        if placement.has_workers and num_jobs:
            outcome = Workers(command, placement, lock.descriptors).run(num_jobs, NOUNS[work.options.makes])
        else:
            result = run_partition(work, Orders(partition=placement.node))
            outcome = NodeOutcome(result.exit_status, result.stopped_by, result.fatal)
        with lock.as_last() as is_last:
            if is_last:
                _put_together(work, lock, outcome, time.perf_counter() - started)
            else:
                _say(f"node {placement.node_rank} of {placement.num_nodes} is done; the last one tells of the whole")
    finally:
        lock.close()
    return outcome.status


def _look(work: Work, placement: Placement) -> int:
    """Goes through the input before any work: checks it, tells what is wrong or there, counts this node's images."""
    there = Existing(work.folder, overwrite=work.overwrite, options=work.sink_options)
    found = survey(PartitionRows(work.rows, placement.node), there, work.options)
    whole = found if placement.num_nodes == 1 else survey(work.rows, there, work.options)
    whole.check(strict=work.options.strict)
    announce(found, there, NOUNS[work.options.makes])
    return found.num_to_do


def _put_together(work: Work, lock: FolderLock, outcome: NodeOutcome, seconds: float) -> None:
    """One manifest, one list of failures and one summary from those of all processes. Nobody else writes meanwhile."""
    folder = work.folder
    gather_parts(folder, _names(work))
    gather_failures(folder, _names(work) if work.options.every_row else None)
    told = [json.loads(path.read_bytes()) for path in parts(folder, SUMMARY)]
    # The processes have read every image where that was asked for.
    with Sink(folder, hold=lock, options=replace(work.sink_options, verify=False)) as sink:
        found = survey(work.rows, sink, work.options)
        for bad in found.bad:
            sink.fail(bad, bad.error, "InvalidRequestError")
        undone = {job.name for job in jobs_to_do(work.rows, sink, work.options)}
        kinds = Counter(line["type"] for line in read_failures(folder / FAILURES) if line.get("name") in undone)
        num_failed = kinds.total()
        tally = Tally(
            found.num_to_do, NOUNS[work.options.makes], done=sum(part["done"] for part in told), failed=num_failed
        )
        tally.failed_by_kind, tally.retried = kinds, sum(part.get("retried", 0) for part in told)
        made_in = [seconds] if outcome.num_restarts else [part["seconds"] for part in told]
        tally.started = time.perf_counter() - max(made_in, default=seconds)
        found = replace(found, num_done=found.num_done - tally.done)
        result = Result(num_failed=len(found.bad) + num_failed, stopped_by=outcome.stopped_by, fatal=outcome.fatal)
        options = work.options
        files = {"html": options.html, "export_parquet": options.export_parquet, "every_row": options.every_row}
        report(found, tally, sink, options.model.model, _facts(told, outcome, seconds), result, **files)


def _names(work: Work) -> Iterator[str]:
    for row in work.rows:
        if isinstance(row, Row):
            yield from row.names()


def _facts(told: list[dict[str, Any]], outcome: NodeOutcome, seconds: float) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "processes": told, "restarts": outcome.num_restarts}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
