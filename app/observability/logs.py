"""Logs go to standard output, one line per event: a constant message, values in fields.

What never goes into a field: tokens, secrets, TwiML and request parameters; phone numbers and SIP users only as
`app.pseudonyms` shows them.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import structlog

# Chatty, and they write whole URLs (httpx) or statements with their values (sqlalchemy).
_QUIET_LOGGERS = ("httpx", "httpcore", "uvicorn.access", "sqlalchemy.engine", "asyncio")


def configure_logging(*, level: str, format_: Literal["auto", "json", "text"], stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging alike, once per process; to standard output by default."""
    stream = stream or sys.stdout
    if format_ == "auto":
        format_ = "text" if stream.isatty() else "json"
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.types.Processor]
    if format_ == "json":
        renderer = [_exception_without_values, structlog.processors.JSONRenderer()]
    else:
        renderer = [
            _exception_without_values,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _exception_without_values(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """A traceback as places and class names. Messages of exceptions repeat values (SQL parameters, bodies): left out."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        chain = []
        while error is not None:
            chain.append({"class": type(error).__qualname__, "at": _places(error)})
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        event["error_chain"] = chain
    return event


def _places(error: BaseException) -> list[str]:
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places
