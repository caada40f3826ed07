"""Logs are JSON, or coloured text on a terminal. Logging never changes a response."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
import structlog

from app.observability import configure_logging
from app.observability.context import bind_log_fields, clear_log_fields
from tests.support.gateway import Gateway
from tests.support.logs import logging_to
from tests.support.upstream import created, running_upstream

logger = structlog.stdlib.get_logger("app.tests")
foreign = logging.getLogger("tests.foreign")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a real pseudo-terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def broken() -> Iterator[io.TextIOWrapper]:
    """A pipe whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    yield stream
    with pytest.raises(BrokenPipeError):  # the buffer still holds what could not be written
        stream.close()


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("pl4nted")


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_terminal_gets_coloured_text(terminal: tuple[int, int]) -> None:
    reading, writing = terminal
    with os.fdopen(os.dup(writing), "w", buffering=1) as stream, logging_to(stream):
        logger.info("request", status=201)
        line = os.read(reading, 4096).decode()
        foreign.info("started on %s", 8000)
        other = os.read(reading, 4096).decode()
    for text, event in ((line, "request"), (other, "started on 8000")):
        assert event in text
        assert "\x1b[" in text
        assert "{" not in text


def test_log_lines_of_libraries_and_of_callgate_have_the_same_members() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        bind_log_fields(request_id="r1")
        for log in (logger.exception, foreign.exception):
            try:
                raise ValueError("pl4nted")
            except ValueError:
                log("broke")
        logger.error("broke", exc_info=ValueError("pl4nted"))
        clear_log_fields()
    own, library, explicit = _lines(stream.getvalue())
    assert list(own) == list(library) == ["event", "request_id", "level", "logger", "timestamp", "error_chain"]
    assert (own["event"], own["request_id"], own["level"]) == (library["event"], library["request_id"], library["level"])
    assert (own["logger"], library["logger"], own["level"]) == ("app.tests", "tests.foreign", "error")
    assert datetime.fromisoformat(own["timestamp"]) <= datetime.fromisoformat(library["timestamp"])
    for line in (own, library):
        ((error,),) = [line["error_chain"]]
        assert error["class"] == "ValueError"
        assert error["at"][0].startswith(f"{__file__}:")
    assert explicit["error_chain"] == [{"class": "ValueError", "at": []}]
    assert "pl4nted" not in stream.getvalue()


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_messages_below_the_level_are_not_logged(level: str) -> None:
    stream, levels = io.StringIO(), ["debug", "info", "warning", "error", "critical"]
    with logging_to(stream, level=level):
        for name in levels:
            number = getattr(logging, name.upper())
            getattr(logger, name)("said")
            logger.log(number, "said")
            foreign.log(number, "said")
    logged = levels[levels.index(level.lower()) :]
    assert [line["level"] for line in _lines(stream.getvalue())] == [name for name in logged for _ in range(3)]


def test_a_new_configuration_applies_to_loggers_already_in_use() -> None:
    first, second = io.StringIO(), io.StringIO()
    with logging_to(first, level="ERROR", format_="text"):
        logger.error("first")
        configure_logging(level="INFO", format_="json", stream=second)
        logger.info("second")
    assert "first" in first.getvalue()
    assert "second" not in first.getvalue()
    assert [line["event"] for line in _lines(second.getvalue())] == ["second"]


_circle: list[Any] = []
_circle.append(_circle)
_deep: list[Any] = []
for _ in range(100_000):
    _deep = [_deep]
# By name, because pytest cannot show all of these values.
ODD: dict[str, tuple[object, object]] = {
    "uuid": (UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001')"),
    "time": (datetime(2026, 1, 1, tzinfo=UTC), "datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)"),
    "set": ({1}, "{1}"),
    "bytes": (b"\xff", r"b'\xff'"),
    "not ASCII": ("Zoë ☎ \U0001f600", "Zoë ☎ \U0001f600"),
    "half a character": ("\ud800", "\ud800"),
    "no repr": (BrokenRepr(), "<BrokenRepr without a repr>"),
    "no repr, in a list": ([BrokenRepr()], ["<BrokenRepr without a repr>"]),
    "key that is no text": ({(1, 2): 3}, "{(1, 2): 3}"),
    "circle": (_circle, "[[...]]"),
    "deep": (_deep, "<list without a repr>"),
    "long number": (10**5000, "<int without a repr>"),
    "nothing": (None, None),
    "number": (1.5, 1.5),
}


@pytest.mark.parametrize("name", ODD)
def test_any_value_can_be_logged_as_json(name: str, tmp_path: Path) -> None:
    value, shown = ODD[name]
    with (tmp_path / "log").open("w", encoding="ascii") as stream, logging_to(stream):
        logger.info("odd", value=value)
    (line,) = _lines((tmp_path / "log").read_text("ascii"))
    assert (line["event"], line["value"]) == ("odd", shown)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_value_can_be_logged_as_text(name: str, encoding: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Checks that a line that stdout cannot encode is written to standard error."""
    with (tmp_path / "log").open("w", encoding=encoding) as stream, logging_to(stream, format_="text"):
        logger.info("odd", value=ODD[name][0])
    assert "odd" in (tmp_path / "log").read_text(encoding) + capfd.readouterr().err


def test_a_log_line_is_written_immediately() -> None:
    script = (
        "import os, signal, structlog\n"
        "from app.observability import configure_logging\n"
        "configure_logging(level='INFO', format_='json')\n"
        "structlog.stdlib.get_logger('app.tests').info('last')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=buffered)
    assert killed.returncode == -9
    assert [line["event"] for line in _lines(killed.stdout)] == ["last"]


def test_log_lines_of_threads_do_not_mix() -> None:
    reading, writing = os.pipe()
    read: list[str] = []

    def say(speaker: int) -> None:
        for number in range(100):
            logger.info("ours", speaker=speaker, number=number, value="x" * 3000)
            foreign.info("theirs %s", "y" * 3000)

    with os.fdopen(reading) as pipe:
        reader = Thread(target=lambda: read.append(pipe.read()))
        reader.start()
        with os.fdopen(writing, "w") as stream, logging_to(stream), ThreadPoolExecutor(8) as pool:
            list(pool.map(say, range(8)))
        reader.join()
    lines = _lines(read[0])
    assert {(line["speaker"], line["number"]) for line in lines if line["event"] == "ours"} == {
        (speaker, number) for speaker in range(8) for number in range(100)
    }
    assert len(lines) == 2 * 8 * 100


async def test_a_broken_log_pipe_does_not_change_the_response(
    gateway: Gateway, broken: io.TextIOWrapper, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created(), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with logging_to(broken):
            assert (await tenant.create()).status_code == 201
            assert (await tenant.create(to="nobody")).status_code == 422
    stderr = capfd.readouterr().err
    assert "BrokenPipeError" in stderr
    assert '"route": "/v1/calls"' in stderr


def test_closed_streams_are_not_an_error() -> None:
    script = (
        "import sys, structlog\n"
        "from app.observability import configure_logging\n"
        "configure_logging(level='INFO', format_='json')\n"
        "answer = sys.stderr\n"
        "sys.stdout.close()\n"
        "structlog.stdlib.get_logger('app.tests').info('on standard error')\n"
        "sys.stderr = open('/dev/null', 'w')\n"
        "sys.stderr.close()\n"
        "structlog.stdlib.get_logger('app.tests').info('nowhere')\n"
        "answer.write('answered')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert "on standard error" in ended.stderr
    assert ended.stderr.endswith("answered")
