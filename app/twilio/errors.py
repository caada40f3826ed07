"""What an exchange with Twilio can come to, when it is not a good answer.

TwilioError
├── TwilioNotSent              the request never left us: no name, no connection, no TLS, no free connection in time
├── TwilioOutcomeUnknown       it left us, or may have, and no trustworthy answer came back
│   └── TwilioListTooLong      a list with more pages than are worth reading
└── TwilioAnswered             Twilio said no, in its own shape: the request was not processed
    ├── TwilioThrottled        429: documented as never processed
    ├── TwilioCredentialRejected  401, 403 or code 20003
    └── TwilioRejected         every other 4xx
        ├── TwilioNotFound     404: deleted, or not to be seen yet: resources are eventually consistent
        └── TwilioWrongState   21220: the call has ended, or is not far enough

One class per right reaction: repeat, never repeat, and "fix it first".
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """An error body and the headers worth keeping. https://www.twilio.com/docs/usage/twilios-response"""

    status: int
    code: int | None = None
    message: str | None = None
    more_info: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None

    @property
    def is_twilios(self) -> bool:
        """Whether Twilio said it, and not somebody on the way."""
        return self.code is not None or self.request_id is not None


class TwilioError(Exception):
    """`reason` is one constant word for logs, metrics and events; it never holds data of the request."""

    reason: str

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        self.reason = reason
        self.answer = answer
        super().__init__(reason)


class TwilioNotSent(TwilioError):
    pass


class TwilioOutcomeUnknown(TwilioError):
    pass


class TwilioListTooLong(TwilioOutcomeUnknown):
    def __init__(self) -> None:
        super().__init__("list_too_long")


class TwilioAnswered(TwilioError):
    answer: Answer

    def __init__(self, reason: str, answer: Answer) -> None:
        super().__init__(reason, answer)


class TwilioThrottled(TwilioAnswered):
    pass


class TwilioCredentialRejected(TwilioAnswered):
    reason = "credential_rejected"

    def __init__(self, answer: Answer) -> None:
        super().__init__(self.reason, answer)


class TwilioRejected(TwilioAnswered):
    pass


class TwilioNotFound(TwilioRejected):
    pass


class TwilioWrongState(TwilioRejected):
    pass
