"""The subresources of a call at Twilio and their operations, as data.

The pages of the subresources begin at https://www.twilio.com/docs/voice/api/call-resource. To support a new operation, add a
line to SUBRESOURCE_OPERATIONS. Tests compare this table with Twilio's specification (tests/data/twilio_operations.json) and
with the installed `twilio` package.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ParameterKind = Literal["text", "integer", "number", "boolean", "json", "pairs"]
SubresourceAction = Literal["list", "fetch", "create", "update", "delete"]

IDEMPOTENCY_KEY_NAME = "IdempotencyKey"
_MAX_CUSTOM_PARAMETERS = 99
_SUFFIX_BY_OPERATOR = {"<": "_before", ">": "_after"}


@dataclass(frozen=True, slots=True)
class OperationParameter:
    """A parameter of an operation on a subresource.

    `name` is Twilio's name, which ends in an operator if it filters a list by range: `DateCreated>` means on or after a day.
    If `is_list`, the parameter may have several values.
    """

    name: str
    kind: ParameterKind = "text"
    choices: tuple[str, ...] = ()
    required: bool = False
    is_list: bool = False

    @property
    def member_name(self) -> str:
        """Returns the parameter's name in Callgate's own API (/v1), in snake_case: `DateCreated>` → `date_created_after`."""
        words = re.sub(r"(?<!^)([A-Z])", r"_\1", self.name.rstrip("<>")).lower()
        return words + _SUFFIX_BY_OPERATOR.get(self.name[-1], "")

    @property
    def is_boolean(self) -> bool:
        """Whether the value is true or false. Twilio's specification declares some booleans as an enum of these two."""
        return self.kind == "boolean" or self.choices == ("true", "false")

    def field_names(self) -> Iterator[str]:
        """Yields the names of the parameter's form fields: one name or, for the kind `pairs`, two numbered names per pair."""
        if self.kind != "pairs":
            yield self.name
            return
        for number in range(1, _MAX_CUSTOM_PARAMETERS + 1):
            yield from custom_parameter_field_names(number)


def custom_parameter_field_names(number: int) -> tuple[str, str]:
    """Returns the names of the two form fields for the name and the value of the custom parameter with this number."""
    return f"Parameter{number}.Name", f"Parameter{number}.Value"


@dataclass(frozen=True, slots=True)
class Subresource:
    """A kind of subresource, such as recordings.

    `segment` is its name in Twilio's paths, and `snake_case_name` its name in `subresource_uris`. `noun` is the name of one
    item, and `fields` are the members of an item.
    """

    segment: str
    noun: str
    fields: tuple[str, ...]

    @property
    def snake_case_name(self) -> str:
        return re.sub(r"(?<!^)([A-Z])", r"_\1", self.segment).lower()


@dataclass(frozen=True, slots=True)
class SubresourceOperation:
    """An action on a subresource. `status` is the HTTP status of Twilio's answer if the action succeeds."""

    subresource: Subresource
    action: SubresourceAction
    parameters: tuple[OperationParameter, ...] = ()
    status: int = 200

    @property
    def method(self) -> str:
        return {"list": "GET", "fetch": "GET", "delete": "DELETE"}.get(self.action, "POST")

    @property
    def is_change(self) -> bool:
        return self.method != "GET"

    @property
    def targets_item(self) -> bool:
        """Whether the path ends in the SID of an item. The paths of the actions `list` and `create` do not."""
        return self.action in ("fetch", "update", "delete")

    @property
    def takes_idempotency_key(self) -> bool:
        return any(parameter.name == IDEMPOTENCY_KEY_NAME for parameter in self.parameters)


def _text_parameters(*names: str) -> tuple[OperationParameter, ...]:
    return tuple(OperationParameter(name) for name in names)


def _parameters_of_kind(kind: ParameterKind, *names: str) -> tuple[OperationParameter, ...]:
    return tuple(OperationParameter(name, kind) for name in names)


def _http_method_parameter(name: str) -> OperationParameter:
    """Returns a parameter with this name, whose value must be GET or POST."""
    return OperationParameter(name, choices=("GET", "POST"))


_SID_FIELDS = ("sid", "account_sid", "call_sid")
_STREAM_FIELDS = (*_SID_FIELDS, "name", "status", "date_updated", "uri")
_PAGING_PARAMETERS = (*_parameters_of_kind("integer", "PageSize", "Page"), OperationParameter("PageToken"))
_TRACK_PARAMETER = OperationParameter("Track", choices=("inbound_track", "outbound_track", "both_tracks"))
_STOP_STATUS_PARAMETERS = (OperationParameter("Status", choices=("stopped",), required=True),)
_IDEMPOTENCY_KEY_PARAMETER = OperationParameter(IDEMPOTENCY_KEY_NAME)
_CUSTOM_PARAMETERS = OperationParameter("Parameters", "pairs")

EVENTS = Subresource("Events", "event", ("request", "response"))
NOTIFICATIONS = Subresource(
    "Notifications",
    "notification",
    (
        *(*_SID_FIELDS, "api_version", "date_created", "date_updated", "error_code", "log", "message_date", "message_text"),
        *("more_info", "request_method", "request_url", "request_variables", "response_body", "response_headers", "uri"),
    ),
)
RECORDINGS = Subresource(
    "Recordings",
    "recording",
    (
        *(*_SID_FIELDS, "api_version", "conference_sid", "date_created", "date_updated", "start_time", "duration", "price"),
        *("uri", "encryption_details", "price_unit", "status", "channels", "source", "error_code", "track"),
    ),
)
PAYMENTS = Subresource("Payments", "payment", (*_SID_FIELDS, "date_created", "date_updated", "uri"))
TRANSCRIPTIONS = Subresource("Transcriptions", "transcription", _STREAM_FIELDS)
SIPREC = Subresource("Siprec", "siprec", _STREAM_FIELDS)
STREAMS = Subresource("Streams", "stream", _STREAM_FIELDS)
USER_DEFINED_MESSAGES = Subresource("UserDefinedMessages", "user_defined_message", (*_SID_FIELDS, "date_created"))
USER_DEFINED_MESSAGE_SUBSCRIPTIONS = Subresource(
    "UserDefinedMessageSubscriptions", "user_defined_message_subscription", (*_SID_FIELDS, "date_created", "uri")
)

SUBRESOURCES = (
    EVENTS,
    NOTIFICATIONS,
    PAYMENTS,
    RECORDINGS,
    SIPREC,
    STREAMS,
    TRANSCRIPTIONS,
    USER_DEFINED_MESSAGE_SUBSCRIPTIONS,
    USER_DEFINED_MESSAGES,
)

SUBRESOURCE_OPERATIONS = (
    SubresourceOperation(EVENTS, "list", _PAGING_PARAMETERS),
    SubresourceOperation(
        NOTIFICATIONS,
        "list",
        (
            OperationParameter("Log", "integer"),
            *_text_parameters("MessageDate", "MessageDate<", "MessageDate>"),
            *_PAGING_PARAMETERS,
        ),
    ),
    SubresourceOperation(NOTIFICATIONS, "fetch"),
    SubresourceOperation(
        RECORDINGS, "list", (*_text_parameters("DateCreated", "DateCreated<", "DateCreated>"), *_PAGING_PARAMETERS)
    ),
    SubresourceOperation(
        RECORDINGS,
        "create",
        (
            OperationParameter("RecordingStatusCallbackEvent", choices=("in-progress", "completed", "absent"), is_list=True),
            OperationParameter("RecordingStatusCallback"),
            _http_method_parameter("RecordingStatusCallbackMethod"),
            *_text_parameters("Trim", "RecordingChannels", "RecordingTrack", "RecordingConfigurationId"),
        ),
        status=201,
    ),
    SubresourceOperation(RECORDINGS, "fetch"),
    SubresourceOperation(
        RECORDINGS,
        "update",
        (
            OperationParameter(
                "Status", choices=("in-progress", "paused", "stopped", "processing", "completed", "absent"), required=True
            ),
            OperationParameter("PauseBehavior"),
        ),
    ),
    SubresourceOperation(RECORDINGS, "delete", status=204),
    SubresourceOperation(
        PAYMENTS,
        "create",
        (
            _IDEMPOTENCY_KEY_PARAMETER,
            OperationParameter("StatusCallback", required=True),
            OperationParameter("BankAccountType", choices=("consumer-checking", "consumer-savings", "commercial-checking")),
            OperationParameter("ChargeAmount", "number"),
            *_text_parameters(
                "Currency", "Description", "Input", "PaymentConnector", "ValidCardTypes", "RequireMatchingInputs"
            ),
            *_parameters_of_kind("integer", "MinPostalCodeLength", "Timeout"),
            *_parameters_of_kind("boolean", "PostalCode", "SecurityCode"),
            OperationParameter("Parameter", "json"),
            OperationParameter("PaymentMethod", choices=("credit-card", "ach-debit")),
            OperationParameter("TokenType", choices=("one-time", "reusable", "payment-method")),
            OperationParameter("Confirmation", choices=("true", "false")),
        ),
        status=201,
    ),
    SubresourceOperation(
        PAYMENTS,
        "update",
        (
            _IDEMPOTENCY_KEY_PARAMETER,
            OperationParameter("StatusCallback", required=True),
            OperationParameter(
                "Capture",
                choices=(
                    *("payment-card-number", "expiration-date", "security-code", "postal-code", "bank-routing-number"),
                    *("bank-account-number", "payment-card-number-matcher", "expiration-date-matcher"),
                    *("security-code-matcher", "postal-code-matcher"),
                ),
            ),
            OperationParameter("Status", choices=("complete", "cancel")),
        ),
        status=202,
    ),
    SubresourceOperation(
        TRANSCRIPTIONS,
        "create",
        (
            _TRACK_PARAMETER,
            _http_method_parameter("StatusCallbackMethod"),
            *_text_parameters(
                "Name", "StatusCallbackUrl", "InboundTrackLabel", "OutboundTrackLabel", "LanguageCode", "TranscriptionEngine"
            ),
            *_text_parameters("SpeechModel", "Hints", "IntelligenceService", "ConversationConfiguration", "ConversationId"),
            *_text_parameters("ConfigurationId", "TranscriptionConfigurationId"),
            *_parameters_of_kind(
                "boolean", "PartialResults", "ProfanityFilter", "EnableAutomaticPunctuation", "EnableProviderData"
            ),
        ),
    ),
    SubresourceOperation(TRANSCRIPTIONS, "update", _STOP_STATUS_PARAMETERS),
    SubresourceOperation(
        SIPREC,
        "create",
        (
            *_text_parameters("Name", "ConnectorName", "StatusCallback"),
            _http_method_parameter("StatusCallbackMethod"),
            _TRACK_PARAMETER,
            _CUSTOM_PARAMETERS,
        ),
    ),
    SubresourceOperation(SIPREC, "update", _STOP_STATUS_PARAMETERS),
    SubresourceOperation(
        STREAMS,
        "create",
        (
            OperationParameter("Url", required=True),
            *(
                *_text_parameters("Name", "StatusCallback"),
                _http_method_parameter("StatusCallbackMethod"),
                _TRACK_PARAMETER,
                _CUSTOM_PARAMETERS,
            ),
        ),
    ),
    SubresourceOperation(STREAMS, "update", _STOP_STATUS_PARAMETERS),
    SubresourceOperation(
        USER_DEFINED_MESSAGES, "create", (OperationParameter("Content", required=True), _IDEMPOTENCY_KEY_PARAMETER), status=201
    ),
    SubresourceOperation(
        USER_DEFINED_MESSAGE_SUBSCRIPTIONS,
        "create",
        (OperationParameter("Callback", required=True), _http_method_parameter("Method"), _IDEMPOTENCY_KEY_PARAMETER),
        status=201,
    ),
    SubresourceOperation(USER_DEFINED_MESSAGE_SUBSCRIPTIONS, "delete", status=204),
)
