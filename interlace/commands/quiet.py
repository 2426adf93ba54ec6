"""Keeps the libraries below from drawing bars of their own."""


def without_bars() -> None:
    """Loading bars of the libraries below are for terminals; in a log they are noise."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
