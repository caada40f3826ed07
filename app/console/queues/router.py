"""The pages of queues: the list, one queue, and the forms that pause it or cancel all of its waiting calls."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.responses import RedirectResponse

from app.console.access import ConsoleActorDep, ConsoleClientDep, console_router, slot_limited_transactions
from app.console.queues import store
from app.console.queues.view import (
    QUEUES_PATH,
    QueueSummary,
    QueueView,
    canceled_calls_message,
    first_queue_list_page_url,
    next_queue_list_page_url,
    queue_calls_url,
    queue_path,
    waiting_calls_text,
)
from app.console.reads import TimeLimitedReads
from app.console.rendering import page_response
from app.console.tenancy import require_accessible_tenant, require_read_scope
from app.errors import QueueNotFound
from app.http.routes import needs
from app.queues.cancellation import QueueCancellation
from app.queues.service import QueueService
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.tenants.scopes import Scope

router = console_router("/queues")


async def console_queue_service(request: Request, _: ConsoleClientDep) -> QueueService:
    """Returns the service that changes queues. Its transactions count toward the console's limit of concurrent transactions."""
    return QueueService(slot_limited_transactions(request), request.state.console_limit)


async def time_limited_queue_service(request: Request) -> QueueService:
    """Returns the service that reads queues for the pages.

    A statement of this service fails if it takes longer than two seconds.
    """
    return QueueService(TimeLimitedReads(request.state.database), request.state.console_limit)


QueuesDep = Annotated[QueueService, Depends(console_queue_service)]
QueueReadsDep = Annotated[QueueService, Depends(time_limited_queue_service)]


async def console_queue_cancellation(request: Request, queues: QueuesDep) -> QueueCancellation:
    """Returns the service that cancels a queue's calls.

    Its transactions count toward the console's limit of concurrent transactions.
    """
    cancellation: QueueCancellation = request.state.queue_cancellation
    return replace(cancellation, queues=queues)


QueueCancellationDep = Annotated[QueueCancellation, Depends(console_queue_cancellation)]


async def require_accessible_queue(client: ConsoleClientDep, tenant_id: str, name: str) -> tuple[str, str]:
    """Returns the tenant's id and the queue's name from the path. Does not check that this queue exists.

    Raises ScopeRequired if the client lacks the scope `read`, TenantNotFound if the client may not see the tenant, and
    QueueNotFound if the name cannot be that of a queue.
    """
    require_read_scope(client)
    require_accessible_tenant(client, tenant_id)
    if not re.fullmatch(RESOURCE_NAME_PATTERN, name):
        raise QueueNotFound
    return tenant_id, name


QueueDep = Annotated[tuple[str, str], Depends(require_accessible_queue)]


@router.get("")
@needs(Scope.READ, clients="any")
async def list_queues(
    request: Request, client: ConsoleClientDep, tenant: str = "", after_tenant: str = "", after: str = ""
) -> Response:
    """Lists queues with the number of calls that wait in each. `tenant` limits an operator's list to one tenant.

    `after_tenant` and `after` are the tenant and the name of the last queue on the previous page.
    """
    wanted = client.tenant_id or tenant
    if wanted:
        require_accessible_tenant(client, wanted)
    place = (after_tenant, after)
    if any("\x00" in part for part in place):
        place = ("", "")
    lines, has_more = await store.list_queue_lines(slot_limited_transactions(request), wanted or None, after=place)
    items = [(QueueSummary.from_state(line.state), waiting_calls_text(line.waiting)) for line in lines]
    return page_response(
        request,
        "queues/list.html",
        items=items,
        tenant=tenant,
        next_page=next_queue_list_page_url(items[-1][0], wanted) if has_more else None,
        first_page=None if place == ("", "") else first_queue_list_page_url(wanted),
        address=f"{QUEUES_PATH}?{request.url.query}",
        read_at=datetime.now(UTC),
    )


@router.get("/{tenant_id}/{name}")
@needs(Scope.READ, clients="any")
async def show_queue(request: Request, queue: QueueDep, service: QueueReadsDep, canceled: int | None = None) -> Response:
    """Shows one queue. `canceled` is how many of its calls a form has just canceled; None if no form led to this page."""
    done = None if canceled is None else canceled_calls_message(canceled)
    return await _render_queue(request, queue, service, "queues/queue.html", done=done)


@router.get("/{tenant_id}/{name}/live")
@needs(Scope.READ, clients="any")
async def show_live_queue(request: Request, queue: QueueDep, service: QueueReadsDep) -> Response:
    """Returns the HTML of the part of the queue's page that the page loads again every few seconds."""
    return await _render_queue(request, queue, service, "queues/live.html")


async def _render_queue(
    request: Request, queue: tuple[str, str], service: QueuesDep, template: str, *, done: str | None = None
) -> Response:
    """Renders the template with the queue and its progress. `done` is a message about the form that led to this page."""
    progress = await service.progress(*queue)
    return page_response(request, template, view=QueueView.from_progress(progress), calls=queue_calls_url(*queue), done=done)


@router.post("/{tenant_id}/{name}/pause")
@needs(Scope.ADMIN, clients="any")
async def pause_queue(queue: QueueDep, actor: ConsoleActorDep, service: QueuesDep) -> Response:
    """Pauses the queue: its waiting calls are not dialled until it is resumed. Calls that are under way continue."""
    await service.change(actor, *queue, {"paused": True})
    return RedirectResponse(queue_path(*queue), status_code=303)


@router.post("/{tenant_id}/{name}/resume")
@needs(Scope.ADMIN, clients="any")
async def resume_queue(queue: QueueDep, actor: ConsoleActorDep, service: QueuesDep) -> Response:
    await service.change(actor, *queue, {"paused": False})
    return RedirectResponse(queue_path(*queue), status_code=303)


@router.get("/{tenant_id}/{name}/cancel")
@needs(Scope.ADMIN, clients="any")
async def confirm_cancellation(request: Request, queue: QueueDep, service: QueueReadsDep) -> Response:
    """Shows how many calls would be canceled, and asks for confirmation."""
    return await _render_queue(request, queue, service, "queues/cancel.html")


@router.post("/{tenant_id}/{name}/cancel")
@needs(Scope.ADMIN, clients="any")
async def cancel_queue(queue: QueueDep, actor: ConsoleActorDep, cancellation: QueueCancellationDep) -> Response:
    """Cancels all waiting calls of the queue, so that none of them rings."""
    canceled = await cancellation.cancel(actor, *queue)
    return RedirectResponse(f"{queue_path(*queue)}?canceled={canceled}", status_code=303)
