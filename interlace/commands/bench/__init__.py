"""`interlace bench`: both sides in one run, a table on stderr, one JSON object last on stdout."""

from cyclopts import App

from interlace.commands.bench.load import latency, serving, stages, throughput
from interlace.commands.bench.planning import batch_curve, profile, simulate
from interlace.commands.bench.settings import quality, speed

bench = App(name="bench", help="Measure what sharing forwards gains on this machine.")
for command in (throughput, latency, profile, quality, speed, stages, serving, simulate):
    bench.command(command)
bench.command(batch_curve, name="batch-curve")
