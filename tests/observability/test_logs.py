"""Lines for machines where nobody looks, coloured ones on a terminal."""

import logging
import os
import pty
from collections.abc import Iterator

import pytest
import structlog

from app.observability import configure_logging


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a real one."""
    ends = pty.openpty()
    yield ends
    logging.basicConfig(handlers=[], force=True)
    for end in ends:
        os.close(end)


def test_a_terminal_gets_coloured_lines(terminal: tuple[int, int]) -> None:
    reading, writing = terminal
    with os.fdopen(os.dup(writing), "w", buffering=1) as stream:
        configure_logging(level="INFO", format_="auto", stream=stream)
        structlog.stdlib.get_logger("app.tests").info("request", status=201)
        line = os.read(reading, 4096).decode()
    assert "request" in line
    assert "\x1b[" in line
    assert "{" not in line
