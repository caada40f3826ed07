"""A call as its creation makes it, before any session has seen it."""

from typing import Any, cast

from app.calls.models import Call


class _NewCall:
    """Every attribute of `Call`, plain; null where the row is."""

    attempt = 1

    def __init__(self, columns: dict[str, Any]) -> None:
        self.__dict__.update(columns)


for _attribute in Call.__mapper__.column_attrs:
    if not hasattr(_NewCall, _attribute.key):
        setattr(_NewCall, _attribute.key, None)


def new_call(**columns: Any) -> Call:
    """To be read, and changed, as a `Call`, and written by app.calls.creation.store: no session takes it.

    What SQLAlchemy keeps beside each attribute, for sessions that a creation never has, costs more than both of its writes.
    """
    return cast("Call", _NewCall(columns))
