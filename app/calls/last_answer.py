"""Stores Twilio's last answer about a call without the values that other columns hold, and restores the whole answer.

Most members of the answer have a column, and Twilio's usual URIs follow from the account and the sid. A callback may change a
column later. In that case the record also stores the value that the answer had.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from app.calls.left_out import OmissibleMembers
from app.twilio.call_uris import call_uri, subresource_uris

_OMISSIBLE_MEMBERS = OmissibleMembers(
    (
        *("sid", "account_sid", "to", "from", "status", "direction", "to_formatted", "from_formatted", "date_created"),
        *("date_updated", "start_time", "end_time", "duration", "price", "price_unit", "answered_by", "api_version"),
        *("caller_name", "forwarded_from", "group_sid", "parent_call_sid", "phone_number_sid", "queue_time", "trunk_sid"),
        *("uri", "subresource_uris"),
    )
)
_URI_BIT, _SUBRESOURCE_URIS_BIT = _OMISSIBLE_MEMBERS.bits["uri"], _OMISSIBLE_MEMBERS.bits["subresource_uris"]
# Maps each column to the attribute that holds its value. The attributes with the columns' own names are properties, which also
# compute what is not stored.
_ATTRIBUTE_BY_COLUMN = {
    "uri": "own_uri",
    "subresource_uris": "own_subresource_uris",
    "resource": "stored_resource_members",
    "resource_left_out": "resource_left_out",
}
_COMPUTED_PROPERTIES = ("uri", "subresource_uris", "resource")  # `resource` is set after the others
_STORED_ATTRIBUTES_BY_PROPERTY = {
    "uri": ("own_uri", "resource_left_out"),
    "subresource_uris": ("own_subresource_uris", "resource_left_out"),
    "resource": ("stored_resource_members", "resource_left_out", "own_uri", "own_subresource_uris"),
}


class LastTwilioAnswerMixin:
    """Adds three properties to a call's record: `resource` (Twilio's last answer about the call), `uri` and `subresource_uris`.

    The columns of these properties leave out what other columns hold. The properties return the complete values.
    `Call`, `CallState` and `CallRow` inherit them.
    """

    if TYPE_CHECKING:
        sid: Any
        account_sid: Any
        own_uri: Any
        own_subresource_uris: Any
        stored_resource_members: Any
        resource_left_out: Any

    @property
    def uri(self) -> str | None:
        if self.own_uri is None and (self.resource_left_out or 0) & _URI_BIT:
            return call_uri(self.account_sid, self.sid)
        own: str | None = self.own_uri
        return own

    @uri.setter
    def uri(self, uri: str | None) -> None:
        self.own_uri = uri

    @property
    def subresource_uris(self) -> dict[str, Any] | None:
        if self.own_subresource_uris is None and (self.resource_left_out or 0) & _SUBRESOURCE_URIS_BIT:
            return subresource_uris(self.account_sid, self.sid)
        own: dict[str, Any] | None = self.own_subresource_uris
        return own

    @subresource_uris.setter
    def subresource_uris(self, uris: dict[str, Any] | None) -> None:
        self.own_subresource_uris = uris

    @property
    def resource(self) -> dict[str, Any] | None:
        """Twilio's last answer about the call with all members, or None if there was no answer."""
        rest: dict[str, Any] | None = self.stored_resource_members
        if rest is None or not self.resource_left_out:
            return rest
        return _OMISSIBLE_MEMBERS.put_back_members(rest, self.resource_left_out, self._answer_value_from_columns)

    @resource.setter
    def resource(self, answer: dict[str, Any] | None) -> None:
        """Stores Twilio's answer without the members that other columns hold. The caller must set those columns first."""
        if answer is None:
            self.stored_resource_members = self.resource_left_out = None
            return
        implied = {name: self._answer_value_from_columns(name) for name in _OMISSIBLE_MEMBERS.bits}
        for name, value in _answer_columns(answer, implied).items():
            setattr(self, _ATTRIBUTE_BY_COLUMN[name], value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute of the record, so that `resource` still returns Twilio's answer as it was.

        The stored answer leaves out a member if an attribute has the same value. Before such an attribute changes, its old
        value is added to the stored answer.
        """
        bit = _OMISSIBLE_MEMBERS.bits.get(name)
        if bit and (self.resource_left_out or 0) & bit and getattr(self, name) != value:
            self.stored_resource_members = {name: self._answer_value_from_columns(name)} | self.stored_resource_members
            self.resource_left_out &= ~bit
        super().__setattr__(name, value)

    def _answer_value_from_columns(self, name: str) -> Any:
        """Returns the record's value for the member `name` of Twilio's answer, in the format of Twilio's JSON."""
        return as_twilio_json(getattr(self, "from_" if name == "from" else name))


class CallRow(LastTwilioAnswerMixin):
    """A call's record with only some of the attributes of `Call`. It is faster to create, because it does not use SQLAlchemy.

    `uri`, `subresource_uris` and `resource` are computed. `row` must have the attributes that `attributes_to_select` returns.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.__dict__.update(row)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def attributes_to_select(attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the attributes to read from the database for a `CallRow` that is to have all of `attributes`.

    Replaces each computed property, such as `resource`, with the attributes that hold its stored part.
    """
    stored = [
        name for derived in _COMPUTED_PROPERTIES if derived in attributes for name in _STORED_ATTRIBUTES_BY_PROPERTY[derived]
    ]
    return (*dict.fromkeys([*(name for name in attributes if name not in _COMPUTED_PROPERTIES), *stored]),)


def with_shortened_resource(call: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `columns` in which `resource`, Twilio's answer, is shortened to the form in which it is stored.

    `columns` maps the attributes of a call's record to the values in Twilio's answer. The members of `resource` that other
    columns hold are left out; the bits of the added `resource_left_out` say which. URIs of Twilio's usual form become None. Of
    `call`, the record, only `to`, `from_` and `account_sid` are read.
    """
    record = {"account_sid": call.account_sid, "to": call.to, "from": call.from_, **columns}
    implied = {name: as_twilio_json(value) for name, value in record.items() if name in _OMISSIBLE_MEMBERS.bits}
    return {**columns, **_answer_columns(columns["resource"], implied)}


def _answer_columns(answer: Mapping[str, Any], implied: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns that store Twilio's answer: `uri`, `subresource_uris`, `resource` and `resource_left_out`.

    `implied` holds the values of the record's columns, in the format of Twilio's JSON. `resource` leaves out the members that
    have the same value in `implied`. Changes `implied`: a URI that is None becomes Twilio's usual URI.
    """
    usual_uri = call_uri(implied["account_sid"], implied["sid"])
    usual_subresource_uris = subresource_uris(implied["account_sid"], implied["sid"])
    uri, uris = implied["uri"], implied["subresource_uris"]
    implied["uri"] = usual_uri if uri is None else uri
    implied["subresource_uris"] = usual_subresource_uris if uris is None else uris
    rest, left_out = _OMISSIBLE_MEMBERS.leave_out_members(answer, implied)
    return {
        "uri": None if left_out & _URI_BIT and uri == usual_uri else uri,
        "subresource_uris": None if left_out & _SUBRESOURCE_URIS_BIT and uris == usual_subresource_uris else uris,
        "resource": rest,
        "resource_left_out": left_out,
    }


def as_twilio_json(value: Any) -> Any:
    """Returns a column's value in the format of Twilio's JSON: dates as in RFC 2822, numbers as strings."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC))
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, int) else value
