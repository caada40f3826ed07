"""Errors in managing tenants. The command line prints their messages, and app/admin turns them into problems (RFC 9457).

Each message tells the user of the command line what to do next. app/admin repeats only the messages of ResourceExists and
InvalidValue. For the other errors, app/admin has its own texts.
"""

from app.errors import CommandFailed


class AdministrationError(CommandFailed):
    """The base class of the errors that commands and the admin API raise when they manage tenants and their resources."""


class NoSuchResource(AdministrationError):
    """The tenant, or a resource of the tenant, does not exist. `resource_kind` is its kind, such as `credential`."""

    def __init__(self, resource_kind: str, message: str) -> None:
        super().__init__(message)
        self.resource_kind = resource_kind


class ResourceExists(AdministrationError):
    """The resource to create exists already. The message contains none of the stored values."""


class InvalidValue(AdministrationError):
    """A value is invalid. `pointer` is the JSON pointer (RFC 6901) of the invalid member in a request to the admin API."""

    def __init__(self, pointer: str, code: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.code = code


class TenantVersionOutdated(AdministrationError):
    """The request expects a version of the tenant that is not the current one: somebody else has changed the tenant."""


def no_such_tenant_error(tenant_id: str) -> AdministrationError:
    return NoSuchResource("tenant", f"there is no tenant {tenant_id}: see `callgate tenants list`")
