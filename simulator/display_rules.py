"""Shows calls as Twilio's API may show them: addresses in another spelling than they were sent, and times by another clock."""

import re
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulator.destination import formatted_address

LetterCase = Literal["as_sent", "lower", "upper"]
SIP_DOMAIN = "sip.twilio.com"
_DATE_MEMBERS = ("date_created", "date_updated", "start_time", "end_time")
_SIP_URI_PATTERN = re.compile(
    r"(?P<scheme>sip):(?:(?P<user>[^@]*)@)?(?P<host>\[[^]]*\]|[^:;?]*)(?P<port>:\d+)?(?P<parameters>;[^?]*)?(?P<headers>\?.*)?",
    re.IGNORECASE,
)


class DisplayRules(BaseModel):
    """The rules by which fetches, updates and lists show calls (`PUT /_simulator/showing`).

    By default addresses are shown as they were sent, and times are those of the simulator's clock.
    """

    model_config = ConfigDict(extra="forbid")

    scheme: Literal["as_sent", "sip", "sips", "none"] = Field("as_sent", description="The scheme of a SIP `to`.")
    user: LetterCase = Field("as_sent", description="The case of the user of a SIP `to`.")
    host: LetterCase = Field("as_sent", description="The case of the host of a SIP `to`.")
    port: bool = Field(True, description="Whether a SIP `to` is shown with its port.")
    parameters: bool = Field(True, description="Whether a SIP `to` is shown with its parameters.")
    headers: bool = Field(True, description="Whether a SIP `to` is shown with its headers.")
    plus: bool = Field(True, description="Whether phone numbers are shown with their plus.")
    from_as: Literal["as_sent", "sip", "sips"] = Field("as_sent", description=f"`sip`: `sip:Jack@{SIP_DOMAIN}`.")
    from_case: LetterCase = "as_sent"
    filter_by: Literal["shown", "sent"] = Field("shown", description="The spelling that the filters `To` and `From` match.")
    ahead_s: float = Field(0, description="Seconds by which Twilio's clock is ahead: dates of calls, `Date` header.")

    def to_as_shown(self, sent: str) -> str:
        match = _SIP_URI_PATTERN.fullmatch(sent)
        if match is None:
            return self._shown_number(sent)
        scheme = match["scheme"] if self.scheme == "as_sent" else self.scheme
        user = None if match["user"] is None else _with_letter_case(match["user"], self.user)
        kept = [("port", self.port), ("parameters", self.parameters), ("headers", self.headers)]
        rest = "".join(match[name] or "" for name, shown in kept if shown)
        address = ("" if user is None else f"{user}@") + _with_letter_case(match["host"], self.host) + rest
        return address if scheme == "none" else f"{scheme}:{address}"

    def from_as_shown(self, sent: str) -> str:
        caller = _with_letter_case(self._shown_number(sent), self.from_case)
        return caller if self.from_as == "as_sent" or ":" in sent else f"{self.from_as}:{caller}@{SIP_DOMAIN}"

    def to_twilio_time(self, moment: datetime) -> datetime:
        """Converts a time of the simulator's clock to Twilio's clock, which is `ahead_s` seconds ahead."""
        return moment + timedelta(seconds=self.ahead_s) if self.ahead_s else moment

    def apply_to_resource(self, resource: dict[str, Any]) -> dict[str, Any]:
        """Returns the call's resource with addresses and dates changed according to these rules."""
        if not self.model_fields_set:
            return resource
        dates = {name: self._shift_date(resource[name]) for name in _DATE_MEMBERS}
        to, from_ = self.to_as_shown(resource["to"]), self.from_as_shown(resource["from"])
        formats = {"to_formatted": formatted_address(to), "from_formatted": formatted_address(from_)}
        return {**resource, "to": to, "from": from_, **formats, **dates}

    def _shift_date(self, date: str | None) -> str | None:
        return None if date is None else format_datetime(self.to_twilio_time(parsedate_to_datetime(date)))

    def _shown_number(self, text: str) -> str:
        return text if self.plus else text.removeprefix("+")


def _with_letter_case(text: str, case: LetterCase) -> str:
    return text if case == "as_sent" else text.lower() if case == "lower" else text.upper()
