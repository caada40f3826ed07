"""Configures logging for one test as a Callgate process does at its start."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

import structlog

from app.observability import configure_logging


@contextmanager
def logging_to(stream: TextIO, *, level: str = "DEBUG", format_: Literal["auto", "json", "text"] = "auto") -> Iterator[None]:
    configure_logging(level=level, format_=format_, stream=stream)
    try:
        yield
    finally:
        logging.basicConfig(handlers=[], force=True)
        structlog.reset_defaults()
