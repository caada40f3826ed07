"""The subresources of a call at Twilio and their operations, as data.

https://www.twilio.com/docs/voice/api/call-resource, and a page for each subresource. To support a new
operation, add a line to OPERATIONS. Tests compare it with Twilio's specification (tests/data/twilio_operations.json) and with
the installed `twilio` package.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "number", "boolean", "json", "pairs"]
Action = Literal["list", "fetch", "create", "update", "delete"]

IDEMPOTENCY_KEY = "IdempotencyKey"
_MAX_PAIRS = 99
_SUFFIXES = {"<": "_before", ">": "_after"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation.

    `name` is Twilio's name with the operator of a list filter: `DateCreated>` is on or after a day. `many` allows several
    values.
    """

    name: str
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    required: bool = False
    many: bool = False

    @property
    def member(self) -> str:
        """Returns the name under /v1, in snake_case: `DateCreated>` → `date_created_after`."""
        words = re.sub(r"(?<!^)([A-Z])", r"_\1", self.name.rstrip("<>")).lower()
        return words + _SUFFIXES.get(self.name[-1], "")

    @property
    def is_boolean(self) -> bool:
        """Whether it takes true or false. Twilio's specification declares some booleans as an enum of the two words."""
        return self.kind == "boolean" or self.choices == ("true", "false")

    def names(self) -> Iterator[str]:
        """Yields the parameter's names in a form or query. The kind `pairs` has numbered names, two for each pair."""
        if self.kind != "pairs":
            yield self.name
            return
        for number in range(1, _MAX_PAIRS + 1):
            yield from parameter_field_names(number)


def parameter_field_names(number: int) -> tuple[str, str]:
    """Returns the names of the two form fields for the name and the value of one custom parameter."""
    return f"Parameter{number}.Name", f"Parameter{number}.Value"


@dataclass(frozen=True, slots=True)
class Subresource:
    """`segment` is the name in Twilio's paths, `key` the name in `subresource_uris`, `fields` the members of an item."""

    segment: str
    noun: str
    fields: tuple[str, ...]

    @property
    def key(self) -> str:
        return re.sub(r"(?<!^)([A-Z])", r"_\1", self.segment).lower()


@dataclass(frozen=True, slots=True)
class Operation:
    """An action on a subresource. `status` is the HTTP status of Twilio's answer when it succeeds."""

    subresource: Subresource
    action: Action
    parameters: tuple[Parameter, ...] = ()
    status: int = 200

    @property
    def method(self) -> str:
        return {"list": "GET", "fetch": "GET", "delete": "DELETE"}.get(self.action, "POST")

    @property
    def is_change(self) -> bool:
        return self.method != "GET"

    @property
    def targets_item(self) -> bool:
        """Whether the path ends in the SID of an item, which the operations `list` and `create` do not have."""
        return self.action in ("fetch", "update", "delete")

    @property
    def takes_idempotency_key(self) -> bool:
        return any(parameter.name == IDEMPOTENCY_KEY for parameter in self.parameters)


def _texts(*names: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name) for name in names)


def _of_kind(kind: Kind, *names: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, kind) for name in names)


def _method(name: str) -> Parameter:
    """Returns the parameter `name`, which takes GET or POST."""
    return Parameter(name, choices=("GET", "POST"))


_SIDS = ("sid", "account_sid", "call_sid")
_STREAM_FIELDS = (*_SIDS, "name", "status", "date_updated", "uri")
_PAGING = (*_of_kind("integer", "PageSize", "Page"), Parameter("PageToken"))
_TRACK = Parameter("Track", choices=("inbound_track", "outbound_track", "both_tracks"))
_STOP_STATUS = (Parameter("Status", choices=("stopped",), required=True),)
_IDEMPOTENCY_KEY = Parameter(IDEMPOTENCY_KEY)
_CUSTOM_PARAMETERS = Parameter("Parameters", "pairs")

EVENTS = Subresource("Events", "event", ("request", "response"))
NOTIFICATIONS = Subresource(
    "Notifications",
    "notification",
    (
        *(*_SIDS, "api_version", "date_created", "date_updated", "error_code", "log", "message_date", "message_text"),
        *("more_info", "request_method", "request_url", "request_variables", "response_body", "response_headers", "uri"),
    ),
)
RECORDINGS = Subresource(
    "Recordings",
    "recording",
    (
        *(*_SIDS, "api_version", "conference_sid", "date_created", "date_updated", "start_time", "duration", "price"),
        *("uri", "encryption_details", "price_unit", "status", "channels", "source", "error_code", "track"),
    ),
)
PAYMENTS = Subresource("Payments", "payment", (*_SIDS, "date_created", "date_updated", "uri"))
TRANSCRIPTIONS = Subresource("Transcriptions", "transcription", _STREAM_FIELDS)
SIPREC = Subresource("Siprec", "siprec", _STREAM_FIELDS)
STREAMS = Subresource("Streams", "stream", _STREAM_FIELDS)
MESSAGES = Subresource("UserDefinedMessages", "user_defined_message", (*_SIDS, "date_created"))
SUBSCRIPTIONS = Subresource(
    "UserDefinedMessageSubscriptions", "user_defined_message_subscription", (*_SIDS, "date_created", "uri")
)

SUBRESOURCES = (EVENTS, NOTIFICATIONS, PAYMENTS, RECORDINGS, SIPREC, STREAMS, TRANSCRIPTIONS, SUBSCRIPTIONS, MESSAGES)

OPERATIONS = (
    Operation(EVENTS, "list", _PAGING),
    Operation(
        NOTIFICATIONS,
        "list",
        (Parameter("Log", "integer"), *_texts("MessageDate", "MessageDate<", "MessageDate>"), *_PAGING),
    ),
    Operation(NOTIFICATIONS, "fetch"),
    Operation(RECORDINGS, "list", (*_texts("DateCreated", "DateCreated<", "DateCreated>"), *_PAGING)),
    Operation(
        RECORDINGS,
        "create",
        (
            Parameter("RecordingStatusCallbackEvent", choices=("in-progress", "completed", "absent"), many=True),
            Parameter("RecordingStatusCallback"),
            _method("RecordingStatusCallbackMethod"),
            *_texts("Trim", "RecordingChannels", "RecordingTrack", "RecordingConfigurationId"),
        ),
        status=201,
    ),
    Operation(RECORDINGS, "fetch"),
    Operation(
        RECORDINGS,
        "update",
        (
            Parameter(
                "Status", choices=("in-progress", "paused", "stopped", "processing", "completed", "absent"), required=True
            ),
            Parameter("PauseBehavior"),
        ),
    ),
    Operation(RECORDINGS, "delete", status=204),
    Operation(
        PAYMENTS,
        "create",
        (
            _IDEMPOTENCY_KEY,
            Parameter("StatusCallback", required=True),
            Parameter("BankAccountType", choices=("consumer-checking", "consumer-savings", "commercial-checking")),
            Parameter("ChargeAmount", "number"),
            *_texts("Currency", "Description", "Input", "PaymentConnector", "ValidCardTypes", "RequireMatchingInputs"),
            *_of_kind("integer", "MinPostalCodeLength", "Timeout"),
            *_of_kind("boolean", "PostalCode", "SecurityCode"),
            Parameter("Parameter", "json"),
            Parameter("PaymentMethod", choices=("credit-card", "ach-debit")),
            Parameter("TokenType", choices=("one-time", "reusable", "payment-method")),
            Parameter("Confirmation", choices=("true", "false")),
        ),
        status=201,
    ),
    Operation(
        PAYMENTS,
        "update",
        (
            _IDEMPOTENCY_KEY,
            Parameter("StatusCallback", required=True),
            Parameter(
                "Capture",
                choices=(
                    *("payment-card-number", "expiration-date", "security-code", "postal-code", "bank-routing-number"),
                    *("bank-account-number", "payment-card-number-matcher", "expiration-date-matcher"),
                    *("security-code-matcher", "postal-code-matcher"),
                ),
            ),
            Parameter("Status", choices=("complete", "cancel")),
        ),
        status=202,
    ),
    Operation(
        TRANSCRIPTIONS,
        "create",
        (
            _TRACK,
            _method("StatusCallbackMethod"),
            *_texts(
                "Name", "StatusCallbackUrl", "InboundTrackLabel", "OutboundTrackLabel", "LanguageCode", "TranscriptionEngine"
            ),
            *_texts("SpeechModel", "Hints", "IntelligenceService", "ConversationConfiguration", "ConversationId"),
            *_texts("ConfigurationId", "TranscriptionConfigurationId"),
            *_of_kind("boolean", "PartialResults", "ProfanityFilter", "EnableAutomaticPunctuation", "EnableProviderData"),
        ),
    ),
    Operation(TRANSCRIPTIONS, "update", _STOP_STATUS),
    Operation(
        SIPREC,
        "create",
        (*_texts("Name", "ConnectorName", "StatusCallback"), _method("StatusCallbackMethod"), _TRACK, _CUSTOM_PARAMETERS),
    ),
    Operation(SIPREC, "update", _STOP_STATUS),
    Operation(
        STREAMS,
        "create",
        (
            Parameter("Url", required=True),
            *(*_texts("Name", "StatusCallback"), _method("StatusCallbackMethod"), _TRACK, _CUSTOM_PARAMETERS),
        ),
    ),
    Operation(STREAMS, "update", _STOP_STATUS),
    Operation(MESSAGES, "create", (Parameter("Content", required=True), _IDEMPOTENCY_KEY), status=201),
    Operation(SUBSCRIPTIONS, "create", (Parameter("Callback", required=True), _method("Method"), _IDEMPOTENCY_KEY), status=201),
    Operation(SUBSCRIPTIONS, "delete", status=204),
)
