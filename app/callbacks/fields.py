"""Parses the form fields of a callback."""

from typing import Self
from urllib.parse import parse_qsl

from app.http.limits import MAX_FORM_FIELDS


class FormFields(dict[str, list[str]]):
    """The form fields of a callback: maps each name to all its values.

    Unknown names are kept, because Twilio adds fields and signs all of them.
    """

    @classmethod
    def parse(cls, form: str) -> Self:
        """Parses application/x-www-form-urlencoded. Raises ValueError for more than MAX_FORM_FIELDS fields."""
        fields = cls()
        for name, value in parse_qsl(form, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS):
            fields.setdefault(name, []).append(value)
        return fields

    def last_values(self) -> dict[str, str]:
        """Returns a dict of the last value of each field, by field name."""
        return {name: values[-1] for name, values in self.items()}
