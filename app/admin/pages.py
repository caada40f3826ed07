"""Keyset pagination of the admin API's lists. A page's `next_cursor` holds the sort key of the page's last item."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Query

from app.errors import FieldError, InvalidRequest

Item = TypeVar("Item")

_CURSOR_RULES: dict[str, Any] = {"pattern": "^[A-Za-z0-9_-]{1,128}$"}


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The requested page of a list. `after` is the sort key of the previous page's last item, or None for the first page."""

    limit: int
    after: str | None

    @property
    def after_id(self) -> UUID | None:
        """The UUID in `after`, or None for the first page. Raises InvalidRequest if `after` is not a UUID."""
        try:
            return None if self.after is None else UUID(self.after)
        except ValueError:
            raise unknown_cursor_error() from None

    @property
    def limit_with_lookahead(self) -> int:
        """The number of items to read: `limit` and one more. The additional item shows whether there is a next page."""
        return self.limit + 1

    def page_and_next_cursor(self, items: Sequence[Item], key: Callable[[Item], object]) -> tuple[Sequence[Item], str | None]:
        """Returns the items of this page and the cursor of the next page. The cursor is None on the last page.

        `items` are the items that were read, at most `limit_with_lookahead`. `key` returns the sort key of an item.
        """
        shown = items[: self.limit]
        return shown, _encode_cursor(str(key(shown[-1]))) if len(items) > self.limit else None


async def requested_page(
    limit: Annotated[int, Query(ge=1, le=200, description="The maximum number of items on a page.")] = 50,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", json_schema_extra=_CURSOR_RULES)
    ] = None,
) -> PageRequest:
    return PageRequest(limit, None if cursor is None else _decode_cursor(cursor))


PageDep = Annotated[PageRequest, Depends(requested_page)]


def unknown_cursor_error() -> InvalidRequest:
    fault = FieldError("?cursor", "cursor_unknown", "must be the next_cursor of an earlier page")
    return InvalidRequest(field_errors=(fault,))


def _encode_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise unknown_cursor_error() from None
    if not (key and key.isprintable()):
        raise unknown_cursor_error()
    return key
