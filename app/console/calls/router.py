"""The pages about calls: the list, one call, and the forms that act on a call."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Path, Request, Response
from starlette.responses import RedirectResponse

from app.callgate_error import EXECUTIONS
from app.calls.control.router import CallControlDep
from app.calls.router import CallServiceDep
from app.console.access import (
    ConsoleActorDep,
    ConsoleClientDep,
    allowed_while_suspended,
    console_router,
    slot_limited_transactions,
)
from app.console.calls import store, view
from app.console.calls.records import CallHistory, CallListLine
from app.console.calls.search import CREATION_PROBLEM_SLUGS, STATUS_CHOICES, CallListFilterForm, parse_call_list_form
from app.console.calls.service import CallActions, find_call_history
from app.console.rendering import page_response
from app.console.tenancy import require_read_scope
from app.deliveries.router import DeliveryServiceDep
from app.errors import CallgateError, CallNotFound, DatabaseUnavailable
from app.http.routes import needs
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope
from app.twilio.schemas import CALL_SID_PATTERN

router = console_router("/calls")

_DONE_MESSAGES: Final = {
    "ended": "The call was ended.",
    "remembered": "The request to end the call is stored.",
    "sent": "The delivery is sent again now.",
}
# A search of one of these kinds redirects to the page of the call if it finds exactly one.
_SEARCH_KINDS_WITH_REDIRECT: Final = ("id", "sid", "key")
# Fields of the form that are not filters: the search and the place in the list.
_FIELDS_THAT_ARE_NO_FILTER: Final = {"q", "cursor"}
# Reasons of a DatabaseUnavailable that is raised because Postgres stopped the statement of a page.
_STATEMENT_TIMEOUT_REASONS: Final = ("timeout", "locked")


async def call_actions(
    request: Request,
    client: ConsoleClientDep,
    actor: ConsoleActorDep,
    calls: CallServiceDep,
    control: CallControlDep,
    deliveries: DeliveryServiceDep,
) -> CallActions:
    """Returns the actions that the person can take on calls. Raises ScopeRequired if the person lacks the scope `read`.

    Every action needs this scope, because the response to every action shows the call.
    """
    require_read_scope(client)
    return CallActions(slot_limited_transactions(request), calls, control, deliveries, client, actor)


CallActionsDep = Annotated[CallActions, Depends(call_actions)]


async def call_id_in_path(id_or_sid: Annotated[str, Path(max_length=64)]) -> UUID:
    """Returns the call's id from the path, in which its parameter is named `id_or_sid`.

    Raises CallNotFound if the text in the path is no UUID, even if it is the sid of a call.
    """
    try:
        return UUID(id_or_sid)
    except ValueError:
        raise CallNotFound from None


CallIdDep = Annotated[UUID, Depends(call_id_in_path)]


@router.get("")
@needs(Scope.READ, clients="any")
async def list_calls(request: Request, client: ConsoleClientDep) -> Response:
    """Lists the calls that match the URL's query.

    If the query is only a search for an id, a sid or an idempotency key, and finds one call, redirects to this call's page.
    """
    form = parse_call_list_form(request.query_params.multi_items())
    query = form.query.with_default_since(now=datetime.now(UTC))
    lines: list[CallListLine] = []
    cursor, timed_out = None, False
    if not form.errors:
        try:
            lines, cursor = await store.list_calls(slot_limited_transactions(request), query, tenant_id=client.tenant_id)
        except DatabaseUnavailable as error:
            if error.reason not in _STATEMENT_TIMEOUT_REASONS:
                raise
            timed_out = True
    if form.texts.keys() == {"q"} and len(lines) == 1 and query.search and query.search.kind in _SEARCH_KINDS_WITH_REDIRECT:
        return RedirectResponse(f"{view.CALLS_PATH}/{lines[0].id}", status_code=303)
    return page_response(
        request,
        "calls/list.html",
        status=_list_http_status(form, timed_out=timed_out),
        form=form,
        has_filter=bool(form.texts.keys() - _FIELDS_THAT_ARE_NO_FILTER),
        lines=lines,
        timed_out=timed_out,
        executions=EXECUTIONS,
        statuses=STATUS_CHOICES,
        problems=CREATION_PROBLEM_SLUGS,
        since_value=view.time_field_value(form, "since"),
        until_value=view.time_field_value(form, "until"),
        read_as=view.search_kind_text(query.search),
        looks_back_to=query.since if query.since != form.query.since else None,
        badge_text=view.badge_text,
        duration_text=view.duration_text,
        refusal_text=view.refusal_text,
        next_page=view.call_list_page_url(form, cursor),
        first_page=view.first_call_list_page_url(form),
    )


@router.get("/{id_or_sid}")
@needs(Scope.READ, clients="any")
async def show_call(request: Request, client: ConsoleClientDep, id_or_sid: str, done: str = "") -> Response:
    """Shows the call with this id. If `id_or_sid` is a sid, redirects to the URL with the call's id.

    `done` is the key in _DONE_MESSAGES of a message to show; "" means no message.
    """
    if CALL_SID_PATTERN.fullmatch(id_or_sid):
        return _redirect_to_call((await _read_visible_call_history(request, client, id_or_sid)).call.id)
    return _render_call_page(
        request,
        await _read_visible_call_history(request, client, await call_id_in_path(id_or_sid)),
        done=_DONE_MESSAGES.get(done),
    )


@router.get("/{id_or_sid}/live")
@needs(Scope.READ, clients="any")
async def show_live_call(request: Request, client: ConsoleClientDep, call_id: CallIdDep) -> Response:
    """Returns the HTML of the part of the call's page that the page loads again every few seconds."""
    history = await _read_visible_call_history(request, client, call_id)
    return page_response(request, "calls/live.html", **_call_page_context(history, reveal=False))


@router.get("/{id_or_sid}/reveal")
@router.get("/{id_or_sid}/end")
@needs(Scope.READ, clients="any")
async def redirect_to_call(call_id: CallIdDep) -> Response:
    """Redirects to the page of the call, with personal data masked. Answers a GET of a URL to which a form is sent."""
    return _redirect_to_call(call_id)


@router.post("/{id_or_sid}/reveal")
@needs(Scope.ADMIN, clients="any")
@allowed_while_suspended
async def reveal_call(request: Request, actions: CallActionsDep, call_id: CallIdDep) -> Response:
    """Shows the call with its personal data. The audit log records that the data was shown."""
    return _render_call_page(request, await actions.reveal_personal_data(call_id), reveal=True)


@router.post("/{id_or_sid}/end")
@needs(Scope.ADMIN, clients="any")
@allowed_while_suspended
async def end_call(request: Request, actions: CallActionsDep, call_id: CallIdDep) -> Response:
    """Ends the call or, if it is not known yet whether the call has started, stores the request to end it.

    Then redirects to the call's page. If the call cannot be ended, shows this page with the reason.
    """
    try:
        result = await actions.end(call_id)
    except CallNotFound:
        raise
    except CallgateError as error:
        return _render_call_page(
            request, await actions.read_call_history(call_id), error_text=f"{error.title}. {error.detail}", status=error.status
        )
    return _redirect_to_call(call_id, "ended" if result.done else "remembered")


@router.post("/{id_or_sid}/deliveries/{delivery_id}/retry")
@needs(Scope.ADMIN, clients="any")
@allowed_while_suspended
async def send_delivery_again(actions: CallActionsDep, call_id: CallIdDep, delivery_id: UUID) -> Response:
    """Makes the delivery due now, so that a worker sends it again. Redirects to the page of the call."""
    await actions.make_delivery_due(call_id, delivery_id)
    return _redirect_to_call(call_id, "sent")


async def _read_visible_call_history(request: Request, client: Caller | OperatorCaller, call_id: UUID | str) -> CallHistory:
    """Returns the call with this id or sid, and its history.

    Raises CallNotFound if there is no such call, or if it belongs to a tenant that the client may not see.
    """
    return await find_call_history(slot_limited_transactions(request), call_id, tenant_id=client.tenant_id)


def _render_call_page(
    request: Request,
    history: CallHistory,
    *,
    reveal: bool = False,
    done: str | None = None,
    error_text: str | None = None,
    status: int = 200,
) -> Response:
    context = _call_page_context(history, reveal=reveal) | {"done": done, "error_text": error_text}
    return page_response(request, "calls/call.html", status=status, **context)


def _call_page_context(history: CallHistory, *, reveal: bool) -> dict[str, Any]:
    return {
        "view": view.make_call_view(history, reveal=reveal),
        "call": history.call,
        "as_json": view.as_json,
    }


def _redirect_to_call(call_id: UUID, done: str = "") -> Response:
    """Returns a redirect to the page of the call.

    `done` is the key in _DONE_MESSAGES of the message that the page then shows; "" means no message.
    """
    return RedirectResponse(f"{view.CALLS_PATH}/{call_id}" + (f"?done={done}" if done else ""), status_code=303)


def _list_http_status(form: CallListFilterForm, *, timed_out: bool) -> int:
    """Returns the HTTP status of the list of calls: 503 if the search timed out, 422 if a filter is invalid, else 200."""
    if timed_out:
        return 503
    return 422 if form.errors else 200
