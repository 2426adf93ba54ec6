"""The command line that is being run: its arguments, for commands that run it again, the app that runs it, and what the
libraries below may draw meanwhile."""

import sys
from contextvars import ContextVar

from cyclopts import App

ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("ARGUMENTS")
APP: ContextVar[App] = ContextVar("APP")


def without_bars() -> None:
    """Loading bars of the libraries below are for terminals; in a log they are noise."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def tell_of_loading(name: str) -> None:
    """On stderr; a model may take minutes."""
    sys.stderr.write(f"loading {name}\n")
    if not sys.stderr.isatty():
        without_bars()
