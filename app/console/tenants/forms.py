"""Turns the forms on the pages of tenants into request bodies of the admin API, and errors of this API into error texts.

The models of the admin API check these bodies, so a form is refused for the same reasons as a request to the admin API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import UUID

from app.admin.problems import api_error_for_administration_error
from app.console.times import read_form_time
from app.errors import (
    AlreadyExists,
    CallgateError,
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    OperatorKeyRequired,
    ScopeRequired,
)
from app.tenants.errors import AdministrationError

SECRET_FIELDS: Final = frozenset({"auth_token", "secret"})
"""The names of fields with secret values. A form that is shown again leaves these fields empty."""
_ERRORS_SHOWN_IN_FORM: Final = (AlreadyExists, IdempotencyKeyReused, InvalidRequest, OperatorKeyRequired, ScopeRequired)
# Error texts by field, instead of the API's texts, which name regular expressions.
_ERROR_TEXTS: Final = {
    "id": "Use lower-case letters, digits and -, at most 63, and a letter or digit first.",
    "account_sid": "Give AC and 32 hexadecimal digits.",
    "key_sid": "Give SK and 32 hexadecimal digits.",
    "name": "Give a name of at most 200 characters.",
    "auth_token": "Give 1 to 256 printable ASCII characters without spaces.",
    "secret": "Give 1 to 256 printable ASCII characters without spaces.",
    "scopes": "Choose at least one.",
    "expires_at": "Give a time in the future, in UTC, such as 2027-01-31T12:00.",
}
_CREDENTIAL_ERROR_TEXT: Final = "Give either the auth token, or the SID and the secret of an API key."


class SubmittedFormFields(Protocol):
    """Gives access to the fields of a form that the browser has sent. Implemented by app.console.access.SubmittedForm."""

    def first_value(self, name: str) -> str: ...

    def all_values(self, name: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class FormState:
    """What a form shows: the values that were typed, and what is wrong with them."""

    values: Mapping[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ("call", "read")
    errors: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the form's fields: an error text by the name of the field."""
    form_error: str | None = None
    """What is wrong with the form as a whole; None if nothing is."""
    status: int = 200

    def value(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def is_refused(self) -> bool:
        return self.status != 200


def refused_form(
    form: SubmittedFormFields, field_names: tuple[str, ...], error: CallgateError | AdministrationError
) -> FormState:
    """Returns the form to show again: the values that were sent, without secrets, and an error text for each wrong field.

    Raises `error` if it is not about the form, such as DatabaseUnavailable. An AdministrationError is raised as the
    corresponding API error.
    """
    problem = api_error_for_administration_error(error) if isinstance(error, AdministrationError) else error
    if not isinstance(problem, _ERRORS_SHOWN_IN_FORM):
        raise problem
    errors = {each.pointer.strip("/").partition("/")[0]: each for each in problem.field_errors}
    at_fields = {name: _error_text(name, each) for name, each in errors.items() if name in field_names}
    elsewhere = [_error_text(name, each) for name, each in errors.items() if name not in field_names]
    return FormState(
        values={name: form.first_value(name) for name in field_names if name not in SECRET_FIELDS},
        scopes=tuple(form.all_values("scopes")),
        errors=at_fields,
        form_error=" ".join(elsewhere) or (None if at_fields else problem.detail),
        status=problem.status,
    )


def _error_text(name: str, error: FieldError) -> str:
    if error.code == "credential_form":
        return _CREDENTIAL_ERROR_TEXT
    return _ERROR_TEXTS.get(name, f"{error.detail[:1].upper()}{error.detail[1:]}.")


def filled_fields(form: SubmittedFormFields, field_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values of the fields with these names. Leaves out empty fields."""
    return {name: value for name in field_names if (value := form.first_value(name))}


TENANT_FIELDS: Final = ("id", "name")
ACCOUNT_FIELDS: Final = ("account_sid", "auth_token", "key_sid", "secret", "base_url")
CREDENTIAL_FIELDS: Final = ("auth_token", "key_sid", "secret")
KEY_FIELDS: Final = ("name", "expires_at", "format", "scopes")


def idempotency_key_of(form: SubmittedFormFields) -> str:
    """Returns the idempotency key that the page has put into the form for a new API key.

    Because of this key, a reload does not create a second API key. Raises InvalidRequest if the form has no such key.
    """
    try:
        return str(UUID(form.first_value("once")))
    except ValueError:
        raise InvalidRequest("Open the page again: the form is incomplete.") from None


def new_api_key_body(form: SubmittedFormFields) -> dict[str, Any]:
    """Returns the body of a request to the admin API for a new API key.

    Raises InvalidRequest if `expires_at` cannot be read.
    """
    body = filled_fields(form, ("name", "format")) | {"scopes": form.all_values("scopes")}
    try:
        expires_at = read_form_time(form.first_value("expires_at"))
    except ValueError:
        raise InvalidRequest(field_errors=(FieldError("/expires_at", "not_rfc_3339", "is no time"),)) from None
    return body if expires_at is None else body | {"expires_at": expires_at.isoformat()}
