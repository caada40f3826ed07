"""Writes logs to standard output. Each event is one line: a constant message, and values in named fields.

Fields never contain tokens, secrets, TwiML or request parameters. Phone numbers and SIP users are replaced by pseudonyms
(app.security.pseudonyms) unless CALLGATE_LOG_PII is set.

Logging never raises, whatever the values are and even if the stream is closed, so that it cannot make a request fail.
"""

import json
import logging
import sys
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TextIO

import structlog

from app.observability.context import add_bound_fields

# These loggers write a lot, including whole URLs (httpx) and statements with values (sqlalchemy).
_QUIET_LOGGERS = ("httpx", "httpcore", "uvicorn.access", "sqlalchemy.engine", "asyncio")


def configure_logging(*, level: str, format_: Literal["auto", "json", "text"], stream: TextIO | None = None) -> None:
    """Configures structlog and the standard library's logging to write lines in the same format.

    The default of `stream` is standard output. With `auto`, the format is text on a terminal, and JSON otherwise. A later call
    replaces the configuration.
    """
    stream = stream or sys.stdout
    if format_ == "auto":
        format_ = "text" if stream.isatty() else "json"
    shared: list[structlog.types.Processor] = [
        add_bound_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.types.Processor = _as_json
    if format_ == "text":
        render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
    renderer = [_exception_without_values, _with_repr_fallback(render)]
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, *renderer],
        logger_factory=cache(lambda name: _Logger(name, handler)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A command configures logging first; `serve` and `worker` configure it again from their settings.
        cache_logger_on_first_use=False,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes all lines of the process under one lock, so that lines never mix."""

    def write(self, line: str) -> None:
        """Writes a rendered line without a LogRecord, whose creation would take longer than all other work. Never raises."""
        self.acquire()
        try:
            self.stream.write(line + self.terminator)
            self.stream.flush()
        except Exception:
            with suppress(Exception):  # standard error may be closed as well
                self.handleError(logging.makeLogRecord({"msg": line}))
        finally:
            self.release()


class _Logger:
    """Receives rendered lines from structlog, and passes them to `handler`. Has one method for each log level."""

    def __init__(self, name: str, handler: _Handler) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = handler.write


def _with_repr_fallback(render: structlog.types.Processor) -> structlog.types.Processor:
    """Returns a processor that calls `render`.

    If `render` raises, for example because a value contains itself, the processor calls it again. In this second call, each
    value that is not a string is replaced by its `repr`.
    """

    def rendered(logger: Any, method: str, event: structlog.types.EventDict) -> Any:
        try:
            return render(logger, method, {**event})  # rendering may remove fields
        except Exception:
            shown = {name: value if isinstance(value, str) else _repr_or_type(value) for name, value in event.items()}
            return render(logger, method, shown)

    return rendered


def _as_json(_: Any, __: str, event: structlog.types.EventDict) -> str:
    return _json_encoder.encode(event)


def _repr_or_type(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__} without a repr>"


# Built once. ASCII output is valid on any stream and can represent lone surrogates.
_json_encoder = json.JSONEncoder(default=_repr_or_type)


def _exception_without_values(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Replaces `exc_info` by `error_chain`: the class names and code locations of the exception and of its causes.

    This is a structlog processor. Exception messages are left out, because they may repeat values, such as request bodies.
    """
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        chain = []
        while error is not None:
            chain.append({"class": type(error).__qualname__, "at": _code_locations(error)})
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        event["error_chain"] = chain
    return event


def _code_locations(error: BaseException) -> list[str]:
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places
