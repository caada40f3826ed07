"""Errors of the administration: for an operator on the command line, and as problems in the admin API.

The message of an OperatorError says what to do next on the command line. app/admin turns the errors below it into problems.
Those of ResourceExists and InvalidMember repeat the message, the others have texts of their own.
"""

from app.errors import CommandFailed


class OperatorError(CommandFailed):
    pass


class NoSuchResource(OperatorError):
    """There is no such tenant, credential or API key, or not for this tenant. `noun` names the kind."""

    def __init__(self, noun: str, message: str) -> None:
        super().__init__(message)
        self.noun = noun


class ResourceExists(OperatorError):
    """The resource exists already, and differs from the one that was to be created. The message contains no value."""


class InvalidMember(OperatorError):
    """A value is not acceptable. `pointer` is the RFC 6901 pointer of the member in the admin API's body."""

    def __init__(self, pointer: str, code: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.code = code


class VersionOutdated(OperatorError):
    """It was changed since the version that the change is for."""


def no_tenant(tenant_id: str) -> OperatorError:
    return NoSuchResource("tenant", f"there is no tenant {tenant_id}: see `callgate tenants list`")
