"""The Jinja2 filters of the console's templates."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from markupsafe import Markup, escape

from app.console.masking import mask_address

_MIN_AGE_TO_SHOW_DATE = timedelta(hours=12)


def time_element(value: datetime | None, form: str = "") -> Markup:
    """Returns an HTML element `<time>` in UTC. The script console.js converts it to the viewer's time zone.

    The `form` "clock" leaves out the date. If `value` is None, the result is a dash.
    """
    if value is None:
        return Markup('<span class="muted">–</span>')
    at = value.astimezone(UTC)
    text = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    clock = Markup(' data-format="clock"') if form == "clock" else ""
    shown = f"{at:%H:%M:%S} UTC" if clock else text
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        at.isoformat(timespec="milliseconds"), text, clock, shown
    )


def short_time_element(value: datetime | None, now: datetime) -> Markup:
    """Returns the HTML element of `time_element`, without the date if `value` is at most 12 hours away from `now`."""
    return time_element(value, "clock" if value is not None and abs(value - now) <= _MIN_AGE_TO_SHOW_DATE else "")


def money_text(amount: Decimal | None, unit: str | None = "USD") -> str:
    """Returns the amount and its currency as text. A negative amount has a minus sign, not a hyphen.

    If `amount` is None, the result is a dash.
    """
    return "–" if amount is None else f"{amount:f} {unit or ''}".strip().replace("-", "−")


def with_code_elements(text: str) -> Markup:
    """Returns the text as HTML, with each part that stands in backticks as a `<code>` element."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "time": time_element,
    "moment": short_time_element,
    "money": money_text,
    "mask": mask_address,
    "code": with_code_elements,
}
