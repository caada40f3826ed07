"""Builds the service objects of a process. The API and the worker use the same services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypedDict

from app import __version__
from app.callbacks.service import CallbackService
from app.callbacks.untagged import UntaggedCallAccounts
from app.calls.callback_urls import CALLBACK_PATH, CallbackUrls
from app.calls.control.service import CallControl
from app.calls.creation.dial import DialTimeBudget
from app.calls.creation.granted_calls import GrantedCallDialer
from app.calls.creation.in_flight_limit import InFlightLimiter
from app.calls.creation.placement import CallPlacer
from app.calls.creation.preparation import CallPreparer
from app.calls.creation.scheduled.service import ScheduledIntentWriter
from app.calls.creation.service import CreationService
from app.calls.creation.undialled_calls import UndialledCallRecorder
from app.calls.search_plan import SearchPlan
from app.calls.service import CallService
from app.calls.settlement import Settlement
from app.calls.status_callbacks import UrlValidator
from app.compat.service import StartedCallReader
from app.database.engine import Database
from app.database.listener import Listener
from app.database.pool import MAX_CONNECTIONS as MAX_STATEMENT_CONNECTIONS
from app.deliveries.addresses import AllowList, UrlError, parse_delivery_url
from app.deliveries.service import DeliveryService
from app.http.concurrency import ConcurrencyLimit
from app.observability import Metrics
from app.queues.bulk import BulkService
from app.queues.cancellation import QueueCancellation
from app.queues.service import QueueService
from app.security.keyring import Keyring
from app.security.pseudonyms import Pseudonymizer
from app.settings import Settings
from app.subresources.service import SubresourceService
from app.tenants.delivery_signing import SigningSettingsCache
from app.tenants.directory import TenantDirectory
from app.tenants.last_use import LastUseRecorder
from app.tenants.models import TENANT_CHANGES_CHANNEL
from app.tenants.repository import mark_api_keys_used, mark_credentials_used
from app.twilio.client import HttpClient, TwilioClient, make_http_client
from app.twilio.clock import TwilioClockOffsets
from app.twilio.forwarding import RequestForwarder
from app.twilio.schemas import Credential, OnCredentialUse


class Services(TypedDict):
    """All services of a process, by name. Handlers find them in `request.state`; the worker passes them to its jobs."""

    database: Database
    keyring: Keyring
    directory: TenantDirectory
    delivery_signing: SigningSettingsCache
    validate_callback: UrlValidator
    twilio: TwilioClient
    settlement: Settlement
    creation: CreationService
    granted_call_dialer: GrantedCallDialer
    calls: CallService
    control: CallControl
    started_calls: StartedCallReader
    callbacks: CallbackService
    subresources: SubresourceService
    deliveries: DeliveryService
    queues: QueueService
    queue_cancellation: QueueCancellation
    bulk: BulkService


@dataclass(frozen=True, slots=True)
class _SharedObjects:
    """The objects that several of the services use, such as the database and the clients of Twilio's API."""

    database: Database
    keyring: Keyring
    directory: TenantDirectory
    delivery_signing: SigningSettingsCache
    mark_credential_used: OnCredentialUse
    creation_twilio: TwilioClient
    twilio: TwilioClient
    forwarding: RequestForwarder
    settlement: Settlement
    callback_urls: CallbackUrls | None
    validate_callback: UrlValidator


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Yields the services of a process. On exit, waits a limited time for the outcomes of calls that are being created."""
    async with _shared_objects(settings, metrics) as shared:
        undialled_calls = UndialledCallRecorder(shared.database, shared.settlement)
        scheduled_intents = ScheduledIntentWriter(shared.database)
        placement = CallPlacer(
            database=shared.database,
            directory=shared.directory,
            twilio=shared.creation_twilio,
            metrics=metrics,
            settlement=shared.settlement,
            undialled_calls=undialled_calls,
            scheduled_intents=scheduled_intents,
            budget=dial_time_budget(settings),
            pause_if_twilio_queues=settings.slow_when_queued,
        )
        preparation = CallPreparer(shared.directory, shared.callback_urls, shared.validate_callback)
        slots = InFlightLimiter(metrics, limit=settings.max_in_flight, limit_per_tenant=settings.max_in_flight_per_tenant)
        creation = CreationService(
            database=shared.database,
            keyring=shared.keyring,
            slots=slots,
            placement=placement,
            undialled_calls=undialled_calls,
            scheduled_intents=scheduled_intents,
            pseudonyms=Pseudonymizer(shared.keyring, log_pii=settings.log_pii),
            preparation=preparation,
        )
        yield _build_services(settings, metrics, shared, creation, GrantedCallDialer(placement, preparation))
        slots.refuse_new_creations()
        await placement.drain()


@asynccontextmanager
async def _shared_objects(settings: Settings, metrics: Metrics) -> AsyncIterator[_SharedObjects]:
    database = Database(settings.require_database_url(), pool_size=settings.database_pool_size)
    metrics.register_pool("sessions", size=settings.database_pool_size, in_use=lambda: database.session_connections_in_use)
    metrics.register_pool("statements", size=MAX_STATEMENT_CONNECTIONS, in_use=lambda: database.statement_connections_in_use)
    keyring = Keyring(settings.require_secret_keys())
    # Separate pools, so that neither requests about existing calls nor downloads of recordings can use up the connections that
    # creations need.
    pools = [_http_client(settings) for _ in range(3)]
    creation_http, http, forwarding_http = pools
    credential_use = LastUseRecorder(database, mark_credentials_used)
    key_use = LastUseRecorder(database, mark_api_keys_used)
    directory = TenantDirectory(database, keyring, is_coherent=lambda: listener.connected, on_key_use=key_use.mark_used)
    delivery_signing = SigningSettingsCache(database, keyring, is_coherent=lambda: listener.connected)

    def invalidate() -> None:
        directory.invalidate()
        delivery_signing.invalidate()

    def mark_credential_used(credential: Credential) -> None:
        credential_use.mark_used(credential.reference)

    make_twilio = partial(
        TwilioClient,
        base_url=settings.twilio_base_url,
        metrics=metrics,
        on_use=mark_credential_used,
        clock=TwilioClockOffsets(metrics),
    )
    listener = Listener(settings.require_database_url(), channel=TENANT_CHANGES_CHANNEL, on_change=invalidate)
    try:
        async with (
            listener.listening_in_background(),
            credential_use.flushing_in_background(),
            key_use.flushing_in_background(),
        ):
            yield _SharedObjects(
                database=database,
                keyring=keyring,
                directory=directory,
                delivery_signing=delivery_signing,
                mark_credential_used=mark_credential_used,
                creation_twilio=make_twilio(creation_http),
                twilio=make_twilio(http),
                forwarding=RequestForwarder(
                    forwarding_http, base_url=settings.twilio_base_url, metrics=metrics, on_use=mark_credential_used
                ),
                settlement=Settlement(
                    metrics,
                    refresh_interval=timedelta(seconds=settings.refresh_interval),
                    plan=SearchPlan(settings.resolve_searches, timedelta(seconds=settings.resolve_period)),
                ),
                callback_urls=CallbackUrls(settings.public_url + CALLBACK_PATH, keyring) if settings.public_url else None,
                validate_callback=partial(_find_callback_url_error, allowed=AllowList.parse(settings.delivery_allow)),
            )
    finally:
        for pool in pools:
            await pool.aclose()
        await database.close()


def _build_services(
    settings: Settings,
    metrics: Metrics,
    shared: _SharedObjects,
    creation: CreationService,
    granted_call_dialer: GrantedCallDialer,
) -> Services:
    database, directory, twilio = shared.database, shared.directory, shared.twilio
    read_limit = ConcurrencyLimit(per_process=2, per_tenant=1)
    calls = CallService(database, read_limit)
    queues = QueueService(database, read_limit)
    deadline_s = dial_time_budget(settings).attempt_s
    limit = _twilio_concurrency_limit(settings)  # of `control` and `started_calls`, which share a pool of connections
    return Services(
        database=database,
        keyring=shared.keyring,
        directory=directory,
        delivery_signing=shared.delivery_signing,
        validate_callback=shared.validate_callback,
        twilio=twilio,
        settlement=shared.settlement,
        creation=creation,
        granted_call_dialer=granted_call_dialer,
        calls=calls,
        control=CallControl(
            database, directory, twilio, shared.callback_urls, shared.validate_callback, shared.settlement, deadline_s, limit
        ),
        started_calls=StartedCallReader(database, directory, twilio, deadline_s, read_limit, limit),
        callbacks=CallbackService(
            database=database,
            directory=directory,
            settlement=shared.settlement,
            metrics=metrics,
            public_url=settings.public_url,
            urls=shared.callback_urls,
            untagged=UntaggedCallAccounts(database),
            on_use=shared.mark_credential_used,
        ),
        subresources=SubresourceService(
            database=database,
            calls=calls,
            directory=directory,
            forwarding=shared.forwarding,
            deadline_s=deadline_s,
            request_limit=_twilio_concurrency_limit(settings),
            # More slots, because these lists also wait for Twilio.
            list_limit=ConcurrencyLimit(per_process=8, per_tenant=4),
        ),
        deliveries=DeliveryService(database, calls, ConcurrencyLimit(per_process=2, per_tenant=1)),
        queues=queues,
        queue_cancellation=QueueCancellation(queues, shared.settlement),
        bulk=BulkService(
            creation,
            # At most 48 MiB of bodies. More slots than for their creation, because clients may send slowly.
            body_limit=ConcurrencyLimit(per_process=12, per_tenant=2),
            creation_limit=ConcurrencyLimit(per_process=4, per_tenant=2),
        ),
    )


def _http_client(settings: Settings) -> HttpClient:
    return make_http_client(
        connect_timeout=settings.twilio_connect_timeout,
        read_timeout=settings.twilio_read_timeout,
        pool_timeout=settings.twilio_pool_timeout,
        keepalive=settings.twilio_keepalive,
        max_connections=settings.max_in_flight,
        user_agent=f"callgate/{__version__}",
    )


def _twilio_concurrency_limit(settings: Settings) -> ConcurrencyLimit:
    """Returns a limit of concurrent requests for one pool of connections to Twilio. A tenant can use a quarter of the pool."""
    return ConcurrencyLimit(per_process=settings.max_in_flight, per_tenant=max(1, settings.max_in_flight // 4))


def _find_callback_url_error(url: str, *, allowed: AllowList) -> UrlError | None:
    read = parse_delivery_url(url, allowed)
    return read if isinstance(read, UrlError) else None


def dial_time_budget(settings: Settings) -> DialTimeBudget:
    """Returns the limits, in seconds, for creating a call: in total, for each request to Twilio, and for its connection."""
    connect = settings.twilio_pool_timeout + settings.twilio_connect_timeout
    return DialTimeBudget(total_s=settings.request_budget, attempt_s=connect + settings.twilio_read_timeout, connect_s=connect)
