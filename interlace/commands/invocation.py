"""The command line that is being run, for commands that run it again in other processes."""

from contextvars import ContextVar

ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("ARGUMENTS")
