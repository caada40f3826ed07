"""The collaborators of one process, API or worker: built once, passed on, stopped in reverse order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypedDict

import httpx

from app import __version__
from app.callbacks.router import CALLBACK_PATH
from app.callbacks.service import CallbackService
from app.calls.control import CallControl
from app.calls.dial import Budget
from app.calls.placement import Placement
from app.calls.service import CallService
from app.calls.settlement import SearchPlan, Settlement
from app.calls.started import StartedCalls
from app.crypto import Keyring
from app.database import Database
from app.observability import Metrics
from app.settings import Settings
from app.subresources.service import SubresourceService
from app.tenants.service import TenantService
from app.twilio.client import TwilioClient, make_http_client
from app.twilio.forwarding import Forwarding


class Services(TypedDict):
    """What handlers find in `request.state`, and jobs are given."""

    database: Database
    tenants: TenantService
    twilio: TwilioClient
    settlement: Settlement
    calls: CallService
    control: CallControl
    started: StartedCalls
    callbacks: CallbackService
    subresources: SubresourceService


@asynccontextmanager
async def services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Outcomes of what was begun are committed before anything closes."""
    database = Database(settings.require_database_url(), pool_size=settings.database_pool_size)
    keyring = Keyring(settings.require_secret_keys())
    # Two pools: however many recordings are being listened to, a creation finds its connection.
    http, passing_on = _http_client(settings), _http_client(settings)
    try:
        tenants = TenantService(database, keyring)
        twilio = TwilioClient(http, base_url=settings.twilio_base_url)
        settlement = Settlement(
            metrics,
            first_refresh=timedelta(seconds=settings.refresh_interval),
            plan=SearchPlan(settings.resolve_searches, timedelta(seconds=settings.resolve_period)),
        )
        placement = Placement(
            database=database,
            tenants=tenants,
            twilio=twilio,
            metrics=metrics,
            settlement=settlement,
            budget=budget_of(settings),
            max_in_flight=settings.max_in_flight,
            max_in_flight_per_tenant=settings.max_in_flight_per_tenant,
        )
        calls = CallService(
            database=database,
            keyring=keyring,
            tenants=tenants,
            placement=placement,
            callback_base=settings.public_url and settings.public_url + CALLBACK_PATH,
        )
        callbacks = CallbackService(database, tenants, settlement, metrics, settings.public_url)
        deadline_s = budget_of(settings).attempt
        subresources = SubresourceService(
            database=database,
            calls=calls,
            tenants=tenants,
            forwarding=Forwarding(passing_on, base_url=settings.twilio_base_url),
            deadline_s=deadline_s,
        )
        yield Services(
            database=database,
            tenants=tenants,
            twilio=twilio,
            settlement=settlement,
            calls=calls,
            control=CallControl(database, tenants, twilio, deadline_s),
            started=StartedCalls(database, tenants, twilio, deadline_s),
            callbacks=callbacks,
            subresources=subresources,
        )
        await placement.drain()
    finally:
        await http.aclose()
        await passing_on.aclose()
        await database.close()


def _http_client(settings: Settings) -> httpx.AsyncClient:
    return make_http_client(
        connect_timeout=settings.twilio_connect_timeout,
        read_timeout=settings.twilio_read_timeout,
        pool_timeout=settings.twilio_pool_timeout,
        max_connections=settings.max_in_flight,
        user_agent=f"callgate/{__version__}",
    )


def budget_of(settings: Settings) -> Budget:
    attempt = settings.twilio_pool_timeout + settings.twilio_connect_timeout + settings.twilio_read_timeout
    return Budget(total=settings.request_budget, attempt=attempt)
