"""Turns a request's parameters, and Twilio's Call resource, into rows of readable text."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.console.masking import mask_json

NameValueRow = tuple[str, str]
"""The name and the value of a parameter, or of a member of Twilio's Call resource, as text to show."""

_PARAMETER_ORDER: Final = {"to": 0, "from": 1}
# Members whose values follow from the account and the sid. The page shows them in the JSON of the resource only.
_HIDDEN_MEMBERS: Final = frozenset({"uri", "subresource_uris"})


def parameter_rows(parameters: Mapping[str, Any], *, reveal: bool) -> list[NameValueRow]:
    """Returns a row for each parameter of a request, `to` and `from` first. Masks personal data unless `reveal` is true."""
    shown = parameters if reveal else mask_json(parameters)
    return [
        (name, _value_as_text(shown[name]))
        for name in sorted(shown, key=lambda name: _PARAMETER_ORDER.get(name, len(_PARAMETER_ORDER)))
    ]


def resource_rows(resource: Mapping[str, Any] | None, *, reveal: bool) -> list[NameValueRow]:
    """Returns a row for each member of Twilio's Call resource that has a value. Masks personal data unless `reveal` is true.

    Leaves out the members `uri` and `subresource_uris`.
    """
    shown = (resource or {}) if reveal else mask_json(resource or {})
    return [
        (name, _value_as_text(value))
        for name, value in shown.items()
        if name not in _HIDDEN_MEMBERS and value not in (None, "", [], {})
    ]


def _value_as_text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(_value_as_text(item) for item in value)
        case Mapping():
            return "; ".join(_member_texts(value))
    return str(value)


def _member_texts(value: Mapping[str, Any]) -> Iterator[str]:
    for name, item in value.items():
        yield f"{name}: {_value_as_text(item)}"
