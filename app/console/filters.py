"""The filters of the console's templates."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from markupsafe import Markup, escape

from app.console.masking import mask

_DATE_SHOWN_AFTER = timedelta(hours=12)


def time(value: datetime | None, form: str = "") -> Markup:
    """Returns a `<time>` in UTC, which console.js shows in the viewer's zone. The `form` "clock" leaves out the date."""
    if value is None:
        return Markup('<span class="muted">–</span>')
    at = value.astimezone(UTC)
    text = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    clock = Markup(' data-format="clock"') if form == "clock" else ""
    shown = f"{at:%H:%M:%S} UTC" if clock else text
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        at.isoformat(timespec="milliseconds"), text, clock, shown
    )


def moment(value: datetime | None, now: datetime) -> Markup:
    """Returns a `<time>` as `time` does, without the date if it is within half a day of `now`."""
    return time(value, "clock" if value is not None and abs(value - now) <= _DATE_SHOWN_AFTER else "")


def money(amount: Decimal | None, unit: str | None = "USD") -> str:
    """Returns an amount with its currency, and with a minus sign instead of a hyphen."""
    return "–" if amount is None else f"{amount:f} {unit or ''}".strip().replace("-", "−")


def code(text: str) -> Markup:
    """Returns the text with its parts in backticks as `<code>`."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {"time": time, "moment": moment, "money": money, "mask": mask, "code": code}
