"""The page that parses a SIP address. The address is in the body of a POST, so that no log, history or referrer has it."""

from fastapi import Request, Response

from app.console.access import SubmittedFormDep, allowed_while_suspended, console_router
from app.console.rendering import page_response
from app.console.sip.view import parse_sip_address_for_view
from app.http.routes import needs
from app.tenants.scopes import Scope

router = console_router("/sip")


@router.get("")
@needs(Scope.READ, clients="any")
async def show_sip_form(request: Request) -> Response:
    return page_response(request, "sip/check.html", view=None)


@router.post("")
@needs(Scope.READ, clients="any")
@allowed_while_suspended
async def check_address(request: Request, form: SubmittedFormDep) -> Response:
    """Shows the parts of a SIP address, and what is wrong with the address. Stores nothing and sends no request."""
    return page_response(request, "sip/check.html", view=parse_sip_address_for_view("".join(form.all_values("address")[:1])))
