"""The errors of requests to Twilio.

TwilioError
├── TwilioNotSent                 the request was not sent: DNS, connect or TLS failed, or no connection was free in time
├── TwilioOutcomeUnknown          the request was or may have been sent, and no trustworthy answer came back
│   ├── TwilioTimeout             the answer did not come in time
│   └── TwilioListTooLong         the list has more pages than Callgate reads
└── TwilioNotProcessed            Twilio answered with an error in its own format: the request was not processed
    ├── TwilioThrottled           429: documented as never processed
    ├── TwilioCredentialRejected  401, 403 or code 20003
    └── TwilioRejected            every other 4xx
        ├── TwilioNotFound        404: the resource was deleted, or is not visible yet (eventual consistency)
        └── TwilioWrongState      code 21220: the call has ended, or has not reached the required state

The class tells the caller whether to repeat the request, never to repeat it, or to correct it first.
"""

from dataclasses import dataclass
from typing import Final

ANSWER_TOO_LONG: Final = "answer_too_long"
"""The reason of an error if Twilio's answer is longer than Callgate reads."""
POOL_TIMEOUT: Final = "pool_timeout"
"""The reason of a TwilioNotSent if no connection of this process to Twilio became free in time."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The parts of an error answer that Callgate keeps. https://www.twilio.com/docs/usage/twilios-response"""

    status: int
    code: int | None = None
    message: str | None = None
    more_info: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None

    @property
    def is_from_twilio(self) -> bool:
        """Whether Twilio wrote the answer, and not a proxy on the way."""
        return self.code is not None or self.request_id is not None


class TwilioError(Exception):
    """A failed request to Twilio. `reason` is a constant word for logs, metrics and events, without data of the request."""

    reason: str

    def __init__(self, reason: str, answer: ErrorAnswer | None = None) -> None:
        self.reason = reason
        self.answer = answer
        super().__init__(reason)


class TwilioNotSent(TwilioError):
    pass


class TwilioOutcomeUnknown(TwilioError):
    pass


class TwilioTimeout(TwilioOutcomeUnknown):
    pass


class TwilioListTooLong(TwilioOutcomeUnknown):
    def __init__(self) -> None:
        super().__init__("list_too_long")


class TwilioNotProcessed(TwilioError):
    answer: ErrorAnswer

    def __init__(self, reason: str, answer: ErrorAnswer) -> None:
        super().__init__(reason, answer)


class TwilioThrottled(TwilioNotProcessed):
    pass


class TwilioCredentialRejected(TwilioNotProcessed):
    reason = "credential_rejected"

    def __init__(self, answer: ErrorAnswer) -> None:
        super().__init__(self.reason, answer)


class TwilioRejected(TwilioNotProcessed):
    pass


class TwilioNotFound(TwilioRejected):
    pass


class TwilioWrongState(TwilioRejected):
    pass
