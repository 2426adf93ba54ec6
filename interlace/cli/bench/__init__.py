"""`interlace bench`: every side in a process of its own, in turn; a table on stderr, one JSON object last on stdout."""

from cyclopts import App

from interlace.cli.bench.load import latency, serving, stages, throughput
from interlace.cli.bench.planning import batch_curve, profile, simulate
from interlace.cli.bench.settings import gpu, quality, speed

bench = App(name="bench", help="Measure what sharing forwards gains on this machine.")
for command in (throughput, latency, profile, quality, speed, stages, serving, simulate, gpu):
    bench.command(command)
bench.command(batch_curve, name="batch-curve")
