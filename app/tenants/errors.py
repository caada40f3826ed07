"""What an operator can get wrong. The message says what to do; it is shown on the command line, never to a caller."""

from app.errors import CommandFailed


class OperatorError(CommandFailed):
    pass


def no_tenant(tenant_id: str) -> OperatorError:
    return OperatorError(f"there is no tenant {tenant_id}: see `callgate tenants list`")
