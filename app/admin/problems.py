"""Translates the errors of the administration (AdministrationError) to API errors.

The message of NoSuchResource advises the user to run a command (`callgate tenants list`). A client of the API cannot do that,
so the API error has another text.
"""

from typing import Final

from app.errors import (
    AlreadyExists,
    CallgateError,
    FieldError,
    InternalError,
    InvalidRequest,
    PreconditionFailed,
    QueueNotFound,
    ResourceNotFound,
    TenantNotFound,
)
from app.tenants.errors import AdministrationError, InvalidValue, NoSuchResource, ResourceExists, TenantVersionOutdated

# What identifies a resource in the path of a request, by the kind of the resource. All other kinds have an id.
_IDENTIFIERS_BY_RESOURCE_KIND: Final = {"account": "SID", "SIP credential": "name"}
NOTHING_CHANGED_DETAIL: Final = "Nothing was changed; `errors` lists every fault."


def api_error_for_administration_error(error: AdministrationError) -> CallgateError:
    """Returns the API error to raise in place of `error`; InternalError if the class of `error` has no API error."""
    match error:
        case NoSuchResource(resource_kind="tenant"):
            return TenantNotFound()
        case NoSuchResource(resource_kind="queue"):
            return QueueNotFound()
        case NoSuchResource(resource_kind=noun):
            return ResourceNotFound(f"This tenant has no {noun} with this {_IDENTIFIERS_BY_RESOURCE_KIND.get(noun, 'id')}.")
        case ResourceExists():
            return AlreadyExists(str(error))
        case TenantVersionOutdated():
            return PreconditionFailed()
        case InvalidValue(pointer=pointer, code=code):
            return InvalidRequest(NOTHING_CHANGED_DETAIL, field_errors=(FieldError(pointer, code, str(error)),))
    return InternalError()
