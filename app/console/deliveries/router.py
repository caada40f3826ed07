"""The pages of deliveries: an overview by tenant for operators, a tenant's list, and forms that send deliveries again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response
from starlette.responses import RedirectResponse

from app.console.access import (
    ConsoleActorDep,
    ConsoleClientDep,
    SubmittedFormDep,
    allowed_while_suspended,
    console_router,
    slot_limited_transactions,
)
from app.console.deliveries import store
from app.console.deliveries.view import BacklogItem, DeliveryItem, DeliveryQuery, cursor_after_delivery, delivery_list_url
from app.console.rendering import page_response
from app.console.tenancy import caller_for_tenant, require_accessible_tenant, require_read_scope
from app.console.times import format_form_time, read_form_time
from app.deliveries.router import DeliveryServiceDep
from app.errors import CallNotFound, DeliveryNotFound, FieldError, InvalidRequest
from app.http.operations import CONSOLE_PREFIX
from app.http.routes import needs
from app.tenants.scopes import Scope

router = console_router("/deliveries")
_DEFAULT_REPLAY_AGE = timedelta(days=1)
_MISSING_TIME_TEXT = "Choose a date and a time, such as 2026-11-28 09:30."


@router.get("")
@needs(Scope.READ, clients="any")
async def list_deliveries(request: Request, client: ConsoleClientDep, query: Annotated[DeliveryQuery, Depends()]) -> Response:
    """Shows the deliveries of a tenant. If an operator names no tenant, shows how many deliveries of each tenant wait."""
    if client.tenant_id is not None and not query.tenant:
        query = replace(query, tenant=client.tenant_id)
    if not query.tenant:
        return await _show_overview(request, after=query.cursor)
    require_accessible_tenant(client, query.tenant)
    return await _show_list(request, query)


async def _show_overview(request: Request, *, after: str) -> Response:
    """Renders the overview: the number of waiting deliveries of each tenant whose id comes after the id `after`."""
    backlogs, has_more = await store.summarize_waiting_by_tenant(
        slot_limited_transactions(request), after=after.replace("\x00", "")
    )
    return page_response(
        request,
        "deliveries/overview.html",
        items=[BacklogItem.from_backlog(each) for each in backlogs],
        is_first=not after,
        next_page=delivery_list_url("", "", backlogs[-1].tenant_id) if has_more else None,
    )


async def _show_list(request: Request, query: DeliveryQuery, *, error_text: str = "") -> Response:
    """Renders a tenant's list of deliveries, with the form that sends given-up deliveries again.

    `error_text` says what is wrong with the time in this form; "" means that nothing is.
    """
    database, now = slot_limited_transactions(request), datetime.now(UTC)
    searched_to, next_page = None, None
    try:
        after, before = (None, query.given_up_before) if query.state == "given_up" else (query.waiting_after, None)
    except ValueError:
        raise InvalidRequest(field_errors=(FieldError("?cursor", "cursor_unknown", "is no page of this list"),)) from None
    if query.state == "given_up":
        given_up = await store.list_given_up_deliveries(database, query.tenant, before=before)
        lines, searched_to = given_up.lines, given_up.searched_to
        if given_up.next_before is not None:
            next_page = query.page_url(cursor=str(given_up.next_before))
    else:
        lines, has_more = await store.list_waiting_deliveries(database, query.tenant, after=after)
        next_page = query.page_url(cursor=cursor_after_delivery(lines[-1])) if has_more else None
    return page_response(
        request,
        "deliveries/list.html",
        status=422 if error_text else 200,
        query=query,
        items=[DeliveryItem.from_delivery(line) for line in lines],
        searched_to=searched_to,
        now=now,
        next_page=next_page,
        since="" if error_text else format_form_time(_parse_since(query.since) or now - _DEFAULT_REPLAY_AGE),
        error_text=error_text,
    )


@router.get("/{tenant_id}/replay")
@needs(Scope.READ, clients="any")
async def redirect_to_given_up_deliveries(client: ConsoleClientDep, tenant_id: str) -> Response:
    """Redirects to the list of given-up deliveries. Answers a GET of the URL to which the form of this list is sent."""
    return _redirect_to(delivery_list_url(require_accessible_tenant(client, tenant_id), "given_up"))


@router.get("/{tenant_id}/{delivery_id}")
@needs(Scope.READ, clients="any")
async def redirect_to_call_of_delivery(
    request: Request, client: ConsoleClientDep, tenant_id: str, delivery_id: str
) -> Response:
    """Redirects to the page of the delivery's call."""
    reads, wanted = slot_limited_transactions(request), require_accessible_tenant(client, tenant_id)
    call_id = await store.find_call_id(reads, wanted, _parse_delivery_id(delivery_id))
    if call_id is None:
        raise DeliveryNotFound
    return _redirect_to(f"{CONSOLE_PREFIX}/calls/{call_id}")


@router.post("/{tenant_id}/replay")
@needs(Scope.ADMIN, clients="any")
@allowed_while_suspended
async def replay_deliveries(
    request: Request,
    client: ConsoleClientDep,
    actor: ConsoleActorDep,
    service: DeliveryServiceDep,
    tenant_id: str,
    form: SubmittedFormDep,
) -> Response:
    """Sends a tenant's given-up deliveries again: those that were written at or after the time in the form.

    One request sends a limited number. The response redirects to the tenant's list of deliveries, which says how many are sent
    again and whether more remain.
    """
    require_read_scope(client)
    caller = caller_for_tenant(client, tenant_id)
    since = _parse_since(form.first_value("since"))
    if since is None:
        return await _show_list(request, DeliveryQuery(tenant_id, "given_up"), error_text=_MISSING_TIME_TEXT)
    replay = await service.replay(caller, since=since, failed_only=True, actor=actor)
    if replay.count and replay.continue_since is None:
        return _redirect_to(delivery_list_url(tenant_id, "waiting", sent=replay.count))
    go_on = format_form_time(replay.continue_since or since)
    return _redirect_to(delivery_list_url(tenant_id, "given_up", sent=replay.count, since=go_on))


@router.post("/{tenant_id}/{call_id}/{delivery_id}/retry")
@needs(Scope.ADMIN, clients="any")
@allowed_while_suspended
async def retry_delivery(
    client: ConsoleClientDep,
    actor: ConsoleActorDep,
    service: DeliveryServiceDep,
    tenant_id: str,
    call_id: str,
    delivery_id: str,
) -> Response:
    """Makes one delivery due now, whatever its state, so that a worker sends it again."""
    require_read_scope(client)
    caller = caller_for_tenant(client, tenant_id)
    wanted = _parse_delivery_id(delivery_id)
    try:
        await service.retry(caller, call_id, wanted, actor=actor)
    except CallNotFound:
        raise DeliveryNotFound("The call was deleted when its retention period ended, or is another tenant’s.") from None
    return _redirect_to(delivery_list_url(tenant_id, "waiting", sent=1))


def _parse_delivery_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise DeliveryNotFound from None


def _parse_since(text: str) -> datetime | None:
    try:
        return read_form_time(text)
    except ValueError:
        return None


def _redirect_to(address: str) -> Response:
    return RedirectResponse(address, status_code=303)
