"""The driver's errors are translated in the same way for both pools."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database.engine import Database
from app.database.errors import failure_log_fields, is_value_refused, original_error_message, translate_error
from app.errors import DatabaseUnavailable
from tests.support.upstream import refused_url

Statement = Callable[[Database, str], Awaitable[object]]


async def _by_sqlalchemy(database: Database, statement: str) -> object:
    async with database.begin() as session:
        return await session.execute(text(statement))


async def _by_asyncpg(database: Database, statement: str) -> object:
    return await database.fetch(statement)


async def _in_a_transaction(database: Database, statement: str) -> object:
    async with database.transaction() as connection:
        return await connection.execute(statement)


ALL_PATHS = pytest.mark.parametrize("execute", [_by_sqlalchemy, _by_asyncpg, _in_a_transaction])


def _raising(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{sqlstate}', CONSTRAINT = 'ck_planted'; END $$"


@ALL_PATHS
@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [
        ("08006", "connection_lost"),
        ("25006", "read_only"),
        ("26000", "prepared_statements"),
        ("40001", "conflict"),
        ("40P01", "conflict"),
        ("42501", "no_permission"),
        ("42P01", "not_migrated"),
        ("42703", "not_migrated"),
        ("42P05", "prepared_statements"),
        ("53100", "disk_full"),
        ("53200", "resources"),
        ("53300", "too_many_connections"),
        ("55P03", "locked"),
        ("55006", "unavailable"),
        ("57014", "timeout"),
        ("57P03", "starting_or_stopping"),
        ("58030", "unavailable"),
        ("XX000", "unavailable"),
    ],
)
async def test_failures_of_postgres_have_a_reason(database_url: str, execute: Statement, sqlstate: str, reason: str) -> None:
    database = Database(database_url, pool_size=1)
    with pytest.raises(DatabaseUnavailable) as raised:
        await execute(database, _raising(sqlstate))
    assert raised.value.reason == reason
    # A statement outside SQLAlchemy is its own transaction: after a lost connection its commit is in doubt.
    assert raised.value.commit_in_doubt is (sqlstate.startswith(("08", "57P")) and execute is _by_asyncpg)
    assert "planted" in original_error_message(raised.value)
    logged = failure_log_fields(raised.value)
    assert (logged["reason"], logged["sqlstate"]) == (reason, sqlstate)
    assert "planted" not in str(logged)
    await database.ping()
    await database.close()


@ALL_PATHS
@pytest.mark.parametrize("sqlstate", ["22P02", "23505", "23514", "23503", "42601", "P0001"])
async def test_an_error_in_our_sql_is_not_a_failure_of_postgres(database_url: str, execute: Statement, sqlstate: str) -> None:
    database = Database(database_url, pool_size=1)
    with pytest.raises((DBAPIError, asyncpg.PostgresError)) as raised:
        await execute(database, _raising(sqlstate))
    assert is_value_refused(raised.value) is sqlstate.startswith(("22", "23"))
    await database.close()


async def test_a_value_that_the_driver_cannot_encode_is_refused(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    with pytest.raises(asyncpg.DataError) as raised:
        await database.fetch("SELECT $1::int", "not a number")
    assert is_value_refused(raised.value)
    await database.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), "connection_lost"),
        (asyncpg.ProtocolError("planted"), "connection_lost"),
        (asyncpg.OutdatedSchemaCacheError("planted"), "connection_lost"),
        (asyncpg.InterfaceError("connection is closed"), "connection_lost"),
        (asyncpg.InvalidCachedStatementError("planted"), "conflict"),
        (asyncpg.TargetServerAttributeNotMatched("planted"), "no_suitable_server"),
        (asyncpg.ClientConfigurationError("planted"), "configuration"),
        (ssl.SSLCertVerificationError("planted"), "tls"),
        (ConnectionResetError(), "unreachable"),
        (TimeoutError(), "timeout"),
        (PoolTimeout(), "busy"),
        (ValueError("planted"), None),
        (asyncio.InvalidStateError(), None),
    ],
)
def test_errors_of_the_driver_have_a_reason(error: Exception, reason: str | None) -> None:
    translated = translate_error(error)
    assert (translated and translated.reason) == reason


@pytest.mark.parametrize("way", [Database.ping, lambda database: database.fetch("SELECT 1")])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "planted"}, "authentication"),
        ({"username": "nobody-knows", "password": "planted"}, "authentication"),
        ({"database": "nowhere"}, "no_such_database"),
        ({"host": "nowhere.invalid"}, "unreachable"),
        ({"port": int(refused_url().rpartition(":")[2])}, "unreachable"),
        ({"query": {"sslmode": "require"}}, "tls"),
        ({"query": {"sslmode": "verify-full"}}, "configuration"),
        ({"query": {"target_session_attrs": "standby"}}, "no_suitable_server"),
        ({"query": {"options": "-cfoo=1"}}, "configuration"),
        ({"query": {"options": "-cwork_mem=8XB"}}, "configuration"),
        ({"query": {"options": "malformed"}}, "configuration"),
    ],
)
async def test_a_failed_connection_has_a_reason_and_leaves_no_commit_in_doubt(
    database_url: str,
    way: Callable[[Database], Awaitable[object]],
    changes: dict[str, object],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")  # no root certificate there
    url = make_url(database_url).set(**changes)  # type: ignore[arg-type]  # one parameter set, of several types
    database = Database(url.render_as_string(hide_password=False), pool_size=1)
    with pytest.raises(DatabaseUnavailable) as raised:
        await way(database)
    assert (raised.value.reason, raised.value.commit_in_doubt) == (reason, False)
    assert "planted" not in original_error_message(raised.value)
    assert "\n" not in original_error_message(raised.value)
    await database.close()


@pytest.mark.parametrize(
    ("answer", "reasons"), [(b"", {"unreachable", "connection_lost"}), (b"HTTP/1.1 400 Bad Request", {"connection_lost"})]
)
async def test_a_server_that_is_not_postgres_has_a_reason(answer: bytes, reasons: set[str]) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        database = Database(f"postgresql://callgate@127.0.0.1:{port}/callgate?sslmode=disable", pool_size=1)
        with pytest.raises(DatabaseUnavailable) as raised:
            await database.ping()
        assert raised.value.reason in reasons
        await database.close()
