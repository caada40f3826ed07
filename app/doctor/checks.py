"""Checks for problems that would keep Callgate from working. Changes nothing and places no call."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta

from app import __version__
from app.audit.events import command_actor
from app.calls.repository import transaction_start_time
from app.calls.statistics import oldest_open_call_times
from app.database.engine import Database, PostgresServerInfo
from app.database.errors import operator_advice, original_error_message
from app.database.heartbeats import summarize_workers
from app.doctor.grants import check_dial_grants
from app.doctor.public_url import check_public_url
from app.doctor.results import CheckResult, CheckState
from app.doctor.settings import check_settings
from app.doctor.twilio_client import CredentialChecker, open_credential_checker
from app.doctor.workloads import WorkloadChecks
from app.errors import DatabaseUnavailable
from app.key_rotation import KeyRotation
from app.revisions import newest_revision
from app.schema import applied_and_newest_revision, is_newer_revision
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.administration_store import AccountRow, CredentialRow
from app.tenants.directory import TenantDirectory
from app.twilio.clock import MAX_TRUSTED_OFFSET, MIN_OFFSET_TO_WARN
from app.twilio.errors import TwilioCredentialRejected, TwilioError
from app.twilio.schemas import Credential

MIN_POSTGRES_VERSION = 14
_MIN_CLOCK_SKEW_TO_WARN_S, _MAX_CLOCK_SKEW_S = 2.0, 30.0


async def run_checks(settings: Settings, token: str | None = None) -> list[CheckResult]:
    """Runs all checks. The results are in the order in which problems should be fixed.

    `token` is a service account token; with it, also checks whether Callgate accepts it.
    """
    version = CheckResult("version", "ok", f"callgate {__version__}, made for schema {newest_revision()}")
    results = [version, *check_settings(settings), check_public_url(settings.public_url)]
    database = Database(settings.require_database_url(), pool_size=2)
    keyring = Keyring(settings.require_secret_keys())
    try:
        async with open_credential_checker(settings) as check_credential:
            administration = TenantAdministration(database, keyring, command_actor())
            directory = TenantDirectory(database, keyring)
            checks = _DatabaseChecks(settings, database, keyring, administration, directory, check_credential)
            results += [result async for result in checks.run(token)]
    except DatabaseUnavailable as error:
        results.append(
            CheckResult(
                "database", "wrong", original_error_message(error), f"{operator_advice(error)}; nothing else could be checked"
            )
        )
    finally:
        await database.close()
    return results


def _check_postgres_durability(server: PostgresServerInfo) -> Iterator[CheckResult]:
    """Checks whether Postgres keeps committed data after a crash or a failover. Yields a result for each finding."""
    check = "durability"
    if not server.fsync:
        yield CheckResult(check, "wrong", "fsync is off: a crash of the machine can damage or lose all data", "set fsync = on")
    if not server.full_page_writes:
        yield CheckResult(
            check, "warning", "full_page_writes is off: a crash of the machine can damage pages",
            "set full_page_writes = on, unless the file system writes whole pages",
        )  # fmt: skip
    if server.standbys and not server.has_synchronous_standby:
        yield CheckResult(
            check, "warning",
            f"{server.standbys} standbys, none of them synchronous: a failover can lose the latest calls and their keys",
            "set synchronous_standby_names",
        )  # fmt: skip
    if server.synchronous_commit in ("off", "local"):
        yield CheckResult(
            check, "ok", f"synchronous_commit is {server.synchronous_commit}, which Callgate's sessions raise to on"
        )
    elif server.fsync:
        yield CheckResult(check, "ok", f"commits are flushed (synchronous_commit is {server.synchronous_commit})")


def _check_pooler(server: PostgresServerInfo) -> CheckResult:
    """Returns a result that says whether the connection pooler keeps prepared statements, and what the operator should do.

    This function is never called for a pooler in transaction mode that loses prepared statements: the attempt to connect
    through such a pooler already raises an error.
    """
    if server.keeps_prepared_statements:
        return CheckResult(
            "pooler",
            "ok",
            "keeps prepared statements; keys and credentials are read for each request, because LISTEN does not work",
        )
    return CheckResult(
        "pooler", "warning", "keeps no prepared statements, which works in session mode only",
        "with PgBouncer in transaction mode: version 1.21 or newer with max_prepared_statements = 200",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _DatabaseChecks:
    """The checks of `callgate doctor` that need the database. `run` raises DatabaseUnavailable if Postgres fails."""

    settings: Settings
    database: Database
    keyring: Keyring
    administration: TenantAdministration
    directory: TenantDirectory
    check_credential: CredentialChecker

    async def run(self, token: str | None) -> AsyncIterator[CheckResult]:
        async for result in self._check_database_server():
            yield result
        schema = await self._check_schema()
        yield schema
        if schema.state == "wrong":
            yield CheckResult("keys, accounts", "not checked", "the schema must be fixed first")
            return
        yield await self._check_worker()
        yield await check_dial_grants(self.database)
        async for result in self._check_encryption_keys():
            yield result
        async for result in self._check_accounts():
            yield result
        async for result in WorkloadChecks(self.settings, self.directory).run(token):
            yield result

    async def _check_database_server(self) -> AsyncIterator[CheckResult]:
        server = await self.database.read_postgres_server_info()
        if server.version < MIN_POSTGRES_VERSION:
            yield CheckResult("database", "wrong", f"PostgreSQL {server.version}", f"use {MIN_POSTGRES_VERSION} or newer")
        elif server.read_only:
            yield CheckResult("database", "wrong", "is a standby, which takes no writes", "use the address of the primary")
        else:
            yield CheckResult("database", "ok", f"PostgreSQL {server.version}")
        if server.is_pooled:
            yield _check_pooler(server)
        for result in _check_postgres_durability(server):
            yield result
        skew = abs(server.clock_ahead_s)
        state: CheckState = "ok" if skew < _MIN_CLOCK_SKEW_TO_WARN_S else "warning" if skew < _MAX_CLOCK_SKEW_S else "wrong"
        found = f"this machine's and the database's differ by {skew:.1f} s"
        yield CheckResult("clocks", state, found, None if state == "ok" else "synchronise both with NTP")

    async def _check_schema(self) -> CheckResult:
        async with self.database.begin() as session:
            current, head = await applied_and_newest_revision(session)
        if current == head:
            return CheckResult("schema", "ok", f"revision {current}")
        if current is None:
            return CheckResult("schema", "wrong", "the database has no schema", "run `callgate migrate`")
        if is_newer_revision(current):
            return CheckResult("schema", "ok", f"revision {current}, of a newer version; this version works with it")
        return CheckResult(
            "schema",
            "wrong",
            f"revision {current}; this version needs {head}",
            "run `callgate migrate`",
        )

    async def _check_worker(self) -> CheckResult:
        """Checks that a worker sends heartbeats, and that no creation of a call stays `pending` for too long.

        If the process that handles a creation ends too early, a worker must mark the creation as `unknown` after a fixed time.
        If a creation is still pending one minute after that time, no worker does this work.
        """
        async with self.database.begin() as session:
            oldest = (await oldest_open_call_times(session))["pending"]
            age = await transaction_start_time(session) - oldest if oldest else timedelta(0)
            running = (await summarize_workers(session)).running
        if not running:
            return CheckResult("worker", "wrong", "no worker has reported within the last minute", "run `callgate worker`")
        max_pending_s = self.settings.request_budget + self.settings.abandon_margin + 60
        if age.total_seconds() > max_pending_s:
            return CheckResult("worker", "wrong", f"a creation has been pending for {age}", "run `callgate worker`")
        return CheckResult("worker", "ok", f"{running} running, and no creation is pending for too long")

    async def _check_encryption_keys(self) -> AsyncIterator[CheckResult]:
        rotation = KeyRotation(self.database, self.keyring)
        unreadable = await rotation.find_unreadable_secrets()
        key_uses = await rotation.count_key_uses(count_calls=False)
        lost = sum(use.api_keys for use in key_uses if not use.is_configured)
        remedy = "put the missing key back into CALLGATE_SECRET_KEYS, or replace the secrets and API keys"
        if unreadable:
            yield CheckResult("keys", "wrong", f"cannot be decrypted: {', '.join(unreadable)}", remedy)
        if lost:
            yield CheckResult("keys", "wrong", f"{lost} API keys were hashed with a key that is not configured", remedy)
        if not unreadable and not lost:
            old = sum(use.secrets for use in key_uses if not use.is_newest)
            yield CheckResult(
                "keys",
                "ok",
                f"{sum(use.secrets for use in key_uses)} secrets can be decrypted" + (f", {old} with an older key" * bool(old)),
            )

    async def _check_accounts(self) -> AsyncIterator[CheckResult]:
        for tenant in await self.administration.list_tenants():
            listed = await self.administration.list_accounts(tenant.id)
            if not listed:
                yield CheckResult(
                    f"tenant {tenant.id}", "warning", "has no Twilio account", f"callgate accounts add {tenant.id}"
                )
            for account, credentials in listed:
                async for result in self._check_account(account, credentials):
                    yield result
        yield self._check_twilio_clock()

    def _check_twilio_clock(self) -> CheckResult:
        """Compares this machine's clock with Twilio's clock, which the Date headers of Twilio's earlier responses show."""
        offset = self.check_credential.twilio.clock.largest_offset
        if offset is None:
            return CheckResult("clocks", "not checked", "no answer of Twilio had a Date header")
        skew = abs(offset)
        state: CheckState = "ok" if skew <= MIN_OFFSET_TO_WARN else "warning" if skew <= MAX_TRUSTED_OFFSET else "wrong"
        found = f"this machine's and Twilio's differ by {skew.total_seconds():.1f} s"
        return CheckResult("clocks", state, found, None if state == "ok" else "synchronise this machine with NTP")

    async def _check_account(self, account: AccountRow, credentials: list[CredentialRow]) -> AsyncIterator[CheckResult]:
        check = f"account {account.account_sid} of {account.tenant_id}"
        add = f"callgate accounts add {account.tenant_id} --account-sid {account.account_sid}"
        if not credentials:
            yield CheckResult(check, "warning", "has no active credential", add)
        if credentials and self.settings.public_url and all(credential.kind != "auth_token" for credential in credentials):
            yield CheckResult(
                check, "warning", "has no auth token: Twilio's callbacks cannot be verified, so none are requested", add
            )
        for credential in await self.directory.active_credentials(account.id):
            yield await self._check_credential(check, credential)

    async def _check_credential(self, check: str, credential: Credential) -> CheckResult:
        """Returns whether Twilio accepts the credential, as a result with the name `check`."""
        which = f"credential {credential.reference} ({'api key' if credential.is_api_key else 'auth token'})"
        try:
            await self.check_credential(credential)
        except TwilioCredentialRejected:
            remedy = "add the new one with `callgate accounts add`, then revoke this one with `callgate accounts revoke`"
            return CheckResult(check, "wrong", f"Twilio refuses {which}", remedy)
        except TwilioError as error:
            return CheckResult(check, "wrong", f"{which} was not checked: {error.reason}", "check the network to Twilio")
        return CheckResult(check, "ok", f"Twilio accepts {which}")
