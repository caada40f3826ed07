"""Errors for operators. The message says what to do. It appears on the command line, never in an answer of the API."""

from app.errors import CommandFailed


class OperatorError(CommandFailed):
    pass


def no_tenant(tenant_id: str) -> OperatorError:
    return OperatorError(f"there is no tenant {tenant_id}: see `callgate tenants list`")
