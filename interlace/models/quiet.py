"""Quiet while something loads that takes a moment: no bars and advice of the libraries below."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Without loading bars, and with errors alone in the logs of diffusers and transformers; then as it was."""
    before = [(one, one.is_progress_bar_enabled(), one.get_verbosity()) for one in _LOGS]
    for log in _LOGS:
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, has_bar, verbosity in before:
            log.set_verbosity(verbosity)
            if has_bar:
                log.enable_progress_bar()


_LOGS = (diffusers_logging, transformers_logging)
