"""The pool reuses connections, replaces lost ones, and translates errors as SQLAlchemy's pool does."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import make_url

from app.database.engine import Database
from app.errors import DatabaseUnavailable


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=1)
    yield database
    await database.close()


async def _pid(database: Database) -> int:
    return int((await database.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"])


async def test_sequential_statements_share_a_connection_and_concurrent_ones_do_not(database: Database) -> None:
    assert await _pid(database) == await _pid(database)
    slow = [database.fetch("SELECT pg_backend_pid() AS pid, pg_sleep(0.1)") for _ in range(3)]
    pids = {rows[0]["pid"] for rows in await asyncio.gather(*slow)}
    assert len(pids) == 3
    assert await _pid(database) in pids
    many = [database.fetch("SELECT pg_backend_pid() AS pid, pg_sleep(0.05)") for _ in range(30)]
    assert len({rows[0]["pid"] for rows in await asyncio.gather(*many)}) == 12


async def test_connections_of_a_busy_moment_are_closed_while_the_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.pool._MAX_IDLE_S", 0.2)
    many = [database.fetch("SELECT pg_backend_pid() AS pid, pg_sleep(0.05)") for _ in range(12)]
    pids = {rows[0]["pid"] for rows in await asyncio.gather(*many)}
    assert len(pids) == 12
    async with asyncio.timeout(60):
        while len(await database.fetch("SELECT FROM pg_stat_activity WHERE pid = ANY($1)", pids)) > 1:
            await asyncio.sleep(0.01)


async def test_a_lost_connection_is_replaced_and_fails_only_its_own_statement(database: Database) -> None:
    lost = await _pid(database)
    using = asyncio.create_task(database.fetch("SELECT pg_sleep(30)"))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while not await database.fetch("SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%sleep(30)%'", lost):
            await asyncio.sleep(0.01)
    await database.fetch("SELECT pg_terminate_backend($1)", lost)
    with pytest.raises(DatabaseUnavailable):
        await using
    assert await _pid(database) != lost


async def test_a_cancelled_statement_does_not_affect_the_next_one(database: Database) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await database.fetch("SELECT 'late' AS said, pg_sleep(0.3)")
    assert (await database.fetch("SELECT 'now' AS said"))[0]["said"] == "now"


async def test_an_error_in_the_sql_is_not_a_failure_of_postgres(database: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.fetch("SELECT 1 / 0")
    assert (await database.fetch("SELECT 1 AS one"))[0]["one"] == 1


async def test_a_connection_to_a_read_only_server_is_closed(database: Database) -> None:
    """Connections to the old primary stay read-only after a failover."""
    await database.fetch("CREATE TABLE written (id int)")
    await database.fetch("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("INSERT INTO written VALUES (1)")
    await database.fetch("INSERT INTO written VALUES (2)")
    assert [row["id"] for row in await database.fetch("SELECT id FROM written")] == [2]


async def _transaction(database: Database, statement: str, *, error: Exception | None = None, lasting_s: float = 0) -> int:
    """Executes the statement, waits, and raises the error. Returns the pid of the connection."""
    async with database.transaction() as connection:
        await connection.execute(statement)
        await asyncio.sleep(lasting_s)
        if error is not None:
            raise error
        return int(connection.get_server_pid())


async def test_a_transaction_commits_or_rolls_back_and_its_connection_is_reused(database: Database) -> None:
    await database.fetch("CREATE TABLE kept (id int)")
    pid = await _transaction(database, "INSERT INTO kept VALUES (1)")
    with pytest.raises(LookupError):
        await _transaction(database, "INSERT INTO kept VALUES (2)", error=LookupError())
    assert await _pid(database) == pid
    assert [row["id"] for row in await database.fetch("SELECT id FROM kept")] == [1]


async def test_a_lost_connection_leaves_only_a_commit_in_doubt(database: Database) -> None:
    await database.fetch("CREATE TABLE cut (id int)")
    await database.fetch(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    await database.fetch(
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON cut DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cut()"
    )
    for statement, in_doubt in [("INSERT INTO cut VALUES (1)", True), ("SELECT pg_terminate_backend(pg_backend_pid())", False)]:
        lost = await _pid(database)
        with pytest.raises(DatabaseUnavailable) as raised:
            await _transaction(database, statement)
        assert raised.value.commit_in_doubt is in_doubt
        assert await _pid(database) != lost


async def test_a_cancelled_transaction_is_rolled_back(database: Database) -> None:
    await database.fetch("CREATE TABLE cancelled (id int)")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_transaction(database, "INSERT INTO cancelled VALUES (1)", lasting_s=30), timeout=0.2)
    assert not await database.fetch("SELECT id FROM cancelled")


async def test_without_a_suitable_server_the_database_is_unavailable(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"target_session_attrs": "standby"})
    database = Database(url.render_as_string(hide_password=False), pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    await database.close()


@pytest.mark.parametrize("changes", [{"password": "wrong", "username": "nobody-knows"}, {"database": "nowhere"}, {"port": 1}])
async def test_without_a_connection_the_database_is_unavailable(database_url: str, changes: dict[str, str | int]) -> None:
    url = make_url(database_url).set(**changes)  # type: ignore[arg-type]  # one parameter set, of several types
    database = Database(url.render_as_string(hide_password=False), pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")
    await database.close()


async def test_parameters_of_the_url_apply(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"sslmode": "disable", "prepared_statement_cache_size": "0"})
    database = Database(url.render_as_string(hide_password=False), pool_size=1)
    await database.fetch("SELECT 1 AS one")
    assert not await database.fetch("SELECT name FROM pg_prepared_statements")
    assert (await database.fetch("SHOW application_name"))[0]["application_name"] == "callgate"
    await database.close()


async def test_a_plan_made_for_an_empty_table_does_not_scan_a_large_one(database: Database) -> None:
    """A plan prepared in an empty database stays in use until Postgres analyzes the table."""
    await database.fetch("CREATE TABLE grown (id int PRIMARY KEY) WITH (autovacuum_enabled = off)")
    statement = "SELECT id FROM grown WHERE id IN (SELECT value::int FROM jsonb_array_elements_text($1::jsonb) AS given(value))"
    for _ in range(10):
        await database.fetch(statement, "[1]")
    await database.fetch("INSERT INTO grown SELECT generate_series(1, 5000)")
    await database.fetch("SELECT pg_stat_force_next_flush()")
    (before,) = await database.fetch("SELECT seq_tup_read AS read FROM pg_stat_user_tables WHERE relname = 'grown'")
    assert [row["id"] for row in await database.fetch(statement, "[7]")] == [7]
    await database.fetch("SELECT pg_stat_force_next_flush()")
    (after,) = await database.fetch("SELECT seq_tup_read AS read FROM pg_stat_user_tables WHERE relname = 'grown'")
    assert after["read"] == before["read"]
