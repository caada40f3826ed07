"""Pydantic types for the parameters of calls, and the functions that check their values."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from app.errors import FieldError, InvalidRequest
from app.security.redaction import TOO_MANY_USERINFOS_MESSAGE, has_too_many_userinfos
from app.tenants.callback_settings import DeliveryEvent


def _require_no_nul(value: str) -> str:
    """Returns the text unchanged. Raises PydanticCustomError if it has a NUL character, which Postgres cannot store."""
    if "\0" in value:
        raise PydanticCustomError("null_character", "must not contain the NUL character")
    return value


def refuse_too_many_userinfos_in_request(values: Iterable[Any]) -> None:
    """Raises InvalidRequest if the values of all parameters of a request together have too many user names (`user@host`).

    The limit bounds CPU time, because every user name is searched for in Twilio's answer. Each value alone has the same limit,
    which `refuse_too_many_userinfos` checks.
    """
    texts = [value for value in values if isinstance(value, str) and "://" in value and "@" in value]
    # One text alone was checked by its type.
    if len(texts) > 1 and has_too_many_userinfos(*texts):
        raise InvalidRequest(field_errors=(FieldError("", "too_many_user_names", TOO_MANY_USERINFOS_MESSAGE),))


def refuse_too_many_userinfos(value: str) -> str:
    """Returns the text unchanged. Raises PydanticCustomError if it has too many user names, or one that is too long.

    Counts the user names and passwords in URLs, and those for SIP in TwiML.
    """
    if has_too_many_userinfos(value):
        raise PydanticCustomError("too_many_user_names", TOO_MANY_USERINFOS_MESSAGE)
    return value


def _require_http_url(value: str) -> str:
    """Returns the URL unchanged. Raises PydanticCustomError unless it is an absolute http or https URL."""
    if any(character <= " " or character == "\x7f" for character in value):
        raise PydanticCustomError("url_whitespace", "must not contain white space or control characters")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise PydanticCustomError("url_syntax", "is not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise PydanticCustomError("url_not_absolute", "must be an absolute http:// or https:// URL")
    return value


def validate_url_for_twilio(url: str) -> tuple[str, str] | None:
    """Returns an error code and a text if Twilio would refuse the URL because its host has an underscore, otherwise None."""
    if "_" in (urlsplit(url).hostname or ""):
        return "url_host_underscore", "must have a host without underscores: Twilio calls it, and refuses others"
    return None


def _require_url_valid_for_twilio(value: str) -> str:
    """Returns the URL unchanged. Raises PydanticCustomError if `validate_url_for_twilio` finds an error."""
    if refused := validate_url_for_twilio(value):
        raise PydanticCustomError(*refused)
    return value


def _require_valid_secret(value: SecretStr) -> SecretStr:
    """Returns the secret unchanged. Raises PydanticCustomError if it has a NUL character or a lone surrogate.

    Pydantic does not check the text in a SecretStr.
    """
    secret = value.get_secret_value()
    if "\0" in secret or (not secret.isprintable() and any("\ud800" <= character <= "\udfff" for character in secret)):
        raise PydanticCustomError("not_text", "must be text without the NUL character")
    return value


def _require_distinct_items(values: list[Any]) -> list[Any]:
    """Returns the list unchanged. Raises PydanticCustomError if an item occurs twice."""
    if len(set(values)) != len(values):
        raise PydanticCustomError("repeated_item", "must not name an item twice")
    return values


def require_at_most_five_passports(value: str) -> str:
    """Returns the text unchanged. Raises PydanticCustomError if it has more than five SHAKEN PASSporTs, separated by commas."""
    if value.count(",") >= 5:
        raise PydanticCustomError("too_many_passports", "must hold at most 5 PASSporTs, separated by commas")
    return value


ParameterText = Annotated[
    str, StringConstraints(min_length=1), AfterValidator(_require_no_nul), AfterValidator(refuse_too_many_userinfos)
]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=8192), AfterValidator(_require_valid_secret)]
HttpUrl = Annotated[ParameterText, AfterValidator(_require_http_url), Field(json_schema_extra={"format": "uri"})]
# The URL of a callback that Twilio always sends itself. Not for status callbacks: `status_callbacks_for_creation` decides who
# sends those.
CallbackUrl = Annotated[HttpUrl, AfterValidator(_require_url_valid_for_twilio)]
# Named types become components of the OpenAPI document. For an inline type, a client generator would invent a name from the
# member's name and a number.
HttpMethod = TypeAliasType("HttpMethod", Literal["GET", "POST"])
ProgressEvent = TypeAliasType("ProgressEvent", DeliveryEvent)
RecordingEvent = TypeAliasType("RecordingEvent", Literal["in-progress", "completed", "absent"])
RedialStatus = TypeAliasType("RedialStatus", Literal["busy", "no-answer"])
# The length is checked before the items, so that a long list of wrong items is one error.
ProgressEvents = Annotated[list[ProgressEvent], Field(min_length=1, max_length=5), AfterValidator(_require_distinct_items)]
RecordingEvents = Annotated[list[RecordingEvent], Field(min_length=1, max_length=3), AfterValidator(_require_distinct_items)]
RedialStatuses = Annotated[list[RedialStatus], Field(min_length=1, max_length=2), AfterValidator(_require_distinct_items)]
RecordingChannels = TypeAliasType("RecordingChannels", Literal["mono", "dual"])
RecordingTrack = TypeAliasType("RecordingTrack", Literal["inbound", "outbound", "both"])
Trim = TypeAliasType("Trim", Literal["trim-silence", "do-not-trim"])
MachineDetection = TypeAliasType("MachineDetection", Literal["Enable", "DetectMessageEnd"])
BooleanText = TypeAliasType("BooleanText", Literal["true", "false"])
