"""The fields of a callback, as Twilio's request validator wants to read them."""

from typing import Self
from urllib.parse import parse_qsl

_MOST = 500


class Fields(dict[str, list[str]]):
    """Names with all their values. Unknown names are kept: Twilio adds fields, and signs all of them."""

    @classmethod
    def parse(cls, form: str) -> Self:
        """From application/x-www-form-urlencoded; ValueError when it has more fields than any callback."""
        fields = cls()
        for name, value in parse_qsl(form, keep_blank_values=True, max_num_fields=_MOST):
            fields.setdefault(name, []).append(value)
        return fields

    def getlist(self, name: str) -> list[str]:
        return self[name]

    def plain(self) -> dict[str, str]:
        """The last value of each."""
        return {name: values[-1] for name, values in self.items()}
