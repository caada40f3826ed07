"""Look for what would keep Callgate from working, before a call finds it. Changes nothing, and rings nobody."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from app import __version__
from app.calls.repository import now
from app.calls.statistics import oldest_unsettled
from app.database.engine import Database, Server
from app.database.errors import describe
from app.database.heartbeats import workers
from app.doctor.settings import Finding, State, check_public_url, check_settings
from app.errors import DatabaseUnavailable
from app.revisions import head
from app.rotation import Rotation
from app.schema import is_newer, revisions
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.administration_store import AccountRow, CredentialRow
from app.tenants.directory import TenantDirectory
from app.twilio.client import TwilioClient, make_http_client
from app.twilio.clock import MAX_TRUSTED_OFFSET, WARN_OFFSET
from app.twilio.errors import TwilioCredentialRejected, TwilioError
from app.twilio.schemas import Credential

__all__ = ["Finding", "examine"]

OLDEST_POSTGRES = 14
_SKEW_TOLD_S, _SKEW_WRONG_S = 2.0, 30.0


async def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is worth mending."""
    version = Finding("version", "ok", f"callgate {__version__}, made for schema {head()}")
    findings = [version, *check_settings(settings), check_public_url(settings.public_url)]
    database = Database(settings.require_database_url(), pool_size=2)
    keyring = Keyring(settings.require_secret_keys())
    try:
        async with _twilio(settings) as twilio:
            checkup = _Checkup(
                settings, database, keyring, TenantAdministration(database, keyring), TenantDirectory(database, keyring), twilio
            )
            findings += [finding async for finding in checkup.findings()]
    except DatabaseUnavailable as error:
        findings.append(
            Finding("database", "wrong", describe(error), "check CALLGATE_DATABASE_URL; nothing else could be checked")
        )
    finally:
        await database.close()
    return findings


@asynccontextmanager
async def _twilio(settings: Settings) -> AsyncIterator[TwilioClient]:
    http = make_http_client(
        connect_timeout=settings.twilio_connect_timeout,
        read_timeout=settings.twilio_read_timeout,
        pool_timeout=settings.twilio_pool_timeout,
        keepalive=settings.twilio_keepalive,
        max_connections=1,
        user_agent=f"callgate/{__version__}",
    )
    try:
        yield TwilioClient(http, base_url=settings.twilio_base_url)
    finally:
        await http.aclose()


def _durability(server: Server) -> Iterator[Finding]:
    """Whether what was committed is still there after a crash or a fail-over: docs/assumptions.md."""
    check = "durability"
    if not server.fsync:
        yield Finding(check, "wrong", "fsync is off: a crash of the machine may damage or lose everything", "set fsync = on")
    if not server.full_page_writes:
        yield Finding(
            check, "warning", "full_page_writes is off: a crash of the machine may damage pages",
            "set full_page_writes = on, unless the file system writes whole pages",
        )  # fmt: skip
    if server.standbys and not server.has_synchronous_standby:
        yield Finding(
            check, "warning",
            f"{server.standbys} standbys, none of them synchronous: a fail-over may lose the last calls, whose keys ring again",
            "set synchronous_standby_names",
        )  # fmt: skip
    if server.synchronous_commit in ("off", "local"):
        yield Finding(check, "ok", f"synchronous_commit is {server.synchronous_commit}, which Callgate's sessions raise to on")
    elif server.fsync:
        yield Finding(check, "ok", f"commits are flushed (synchronous_commit is {server.synchronous_commit})")


def _pooler(server: Server) -> Finding:
    """One that shares connections without keeping prepared statements has been refused before."""
    if server.keeps_statements:
        return Finding(
            "pooler",
            "ok",
            "keeps prepared statements; keys and credentials are read for each request, for LISTEN does not work",
        )
    return Finding(
        "pooler", "warning", "keeps no prepared statements, which is right in session mode only",
        "with PgBouncer in transaction mode: version 1.21 or newer with max_prepared_statements = 200",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Checkup:
    """What needs the database. DatabaseUnavailable ends it."""

    settings: Settings
    database: Database
    keyring: Keyring
    tenants: TenantAdministration
    directory: TenantDirectory
    twilio: TwilioClient

    async def findings(self) -> AsyncIterator[Finding]:
        async for finding in self._server():
            yield finding
        schema = await self._schema()
        yield schema
        if schema.state == "wrong":
            yield Finding("keys, accounts", "not checked", "the schema has to be right first")
            return
        yield await self._worker()
        async for finding in self._keys():
            yield finding
        async for finding in self._accounts():
            yield finding

    async def _server(self) -> AsyncIterator[Finding]:
        server = await self.database.server()
        if server.version < OLDEST_POSTGRES:
            yield Finding("database", "wrong", f"PostgreSQL {server.version}", f"use {OLDEST_POSTGRES} or newer")
        elif server.read_only:
            yield Finding("database", "wrong", "is a standby, which takes no writes", "use the address of the primary")
        else:
            yield Finding("database", "ok", f"PostgreSQL {server.version}")
        if server.is_pooled:
            yield _pooler(server)
        for finding in _durability(server):
            yield finding
        skew = abs(server.ahead_s)
        state: State = "ok" if skew < _SKEW_TOLD_S else "warning" if skew < _SKEW_WRONG_S else "wrong"
        told = f"{skew:.1f} s between this machine's and the database's"
        yield Finding("clocks", state, told, None if state == "ok" else "synchronise both with NTP")

    async def _schema(self) -> Finding:
        async with self.database.begin() as session:
            current, head = await revisions(session)
        if current == head:
            return Finding("schema", "ok", f"revision {current}")
        if current is None:
            return Finding("schema", "wrong", "there is none", "run `callgate migrate`")
        if is_newer(current):
            return Finding("schema", "ok", f"revision {current}, of a newer version, on which this one works too")
        return Finding(
            "schema",
            "wrong",
            f"revision {current}, and this version needs {head}",
            "run `callgate migrate`",
        )

    async def _worker(self) -> Finding:
        """Each worker leaves heartbeats. It turns what is pending for too long into unknown: when nobody does, none runs."""
        async with self.database.begin() as session:
            oldest = (await oldest_unsettled(session))["pending"]
            age = await now(session) - oldest if oldest else timedelta(0)
            running = (await workers(session)).running
        if not running:
            return Finding("worker", "wrong", "none has reported within the last minute", "run `callgate worker`")
        longest = self.settings.request_budget + self.settings.abandon_margin + 60
        if age.total_seconds() > longest:
            return Finding("worker", "wrong", f"a creation has been pending for {age}", "run `callgate worker`")
        return Finding("worker", "ok", f"{running} running, and no creation is pending for too long")

    async def _keys(self) -> AsyncIterator[Finding]:
        rotation = Rotation(self.database, self.keyring)
        unreadable = await rotation.unreadable()
        uses = await rotation.uses(count_calls=False)
        lost = sum(use.api_keys for use in uses if not use.configured)
        bring_back = "put the key that made them back into CALLGATE_SECRET_KEYS, or make them anew"
        if unreadable:
            yield Finding("keys", "wrong", f"do not open: {', '.join(unreadable)}", bring_back)
        if lost:
            yield Finding("keys", "wrong", f"{lost} API keys were hashed with a key that is not configured", bring_back)
        if not unreadable and not lost:
            old = sum(use.secrets for use in uses if not use.newest)
            yield Finding(
                "keys", "ok", f"{sum(use.secrets for use in uses)} secrets open" + (f", {old} by an older key" * bool(old))
            )

    async def _accounts(self) -> AsyncIterator[Finding]:
        for tenant in await self.tenants.list_tenants():
            listed = await self.tenants.list_accounts(tenant.id)
            if not listed:
                yield Finding(f"tenant {tenant.id}", "warning", "has no Twilio account", f"callgate accounts add {tenant.id}")
            for account, credentials in listed:
                async for finding in self._account(account, credentials):
                    yield finding
        yield self._twilio_clock()

    def _twilio_clock(self) -> Finding:
        """By the answers to what was asked for the accounts."""
        offset = self.twilio.clock.largest_offset
        if offset is None:
            return Finding("clocks", "not checked", "no server of Twilio's has told its time")
        skew = abs(offset)
        state: State = "ok" if skew <= WARN_OFFSET else "warning" if skew <= MAX_TRUSTED_OFFSET else "wrong"
        told = f"{skew.total_seconds():.1f} s between this machine's and Twilio's"
        return Finding("clocks", state, told, None if state == "ok" else "synchronise this machine with NTP")

    async def _account(self, account: AccountRow, credentials: list[CredentialRow]) -> AsyncIterator[Finding]:
        check = f"account {account.account_sid} of {account.tenant_id}"
        add = f"callgate accounts add {account.tenant_id} --account-sid {account.account_sid}"
        if not credentials:
            yield Finding(check, "warning", "has no active credential", add)
        if credentials and self.settings.public_url and all(credential.kind != "auth_token" for credential in credentials):
            yield Finding(
                check, "warning", "has no auth token: Twilio's callbacks cannot be verified, and none is asked for", add
            )
        opened = await self.directory.credentials(account.id)
        kinds = {str(credential.id): credential.kind for credential in credentials}
        for access in opened:
            yield await self._try(check, access, kinds[access.reference])

    async def _try(self, check: str, access: Credential, kind: str) -> Finding:
        """https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources: a page of one call."""
        which = f"credential {access.reference} ({kind.replace('_', ' ')})"
        deadline = self.settings.twilio_connect_timeout + self.settings.twilio_read_timeout
        try:
            await self.twilio.check_credential(access, deadline_s=deadline)
        except TwilioCredentialRejected:
            renew = "add the new one with `callgate accounts add`, then revoke this one with `callgate accounts revoke`"
            return Finding(check, "wrong", f"Twilio refuses {which}", renew)
        except TwilioError as error:
            return Finding(check, "wrong", f"{which} could not be tried: {error.reason}", "check the way to Twilio")
        return Finding(check, "ok", f"Twilio accepts {which}")
