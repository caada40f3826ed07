"""Fixtures for all tests: one real Postgres for the whole run, and a migrated database for each test module."""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import make_url

from app.local.postgres import EmbeddedPostgres, remove_postgres_data
from app.schema import migrate
from tests.support.callbacks import PUBLIC_URL
from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created, running_upstream

_SERVER = "CALLGATE_TEST_SERVER"
_TEMPLATE = "callgate_template"
_numbers = itertools.count(1)
# The same examples in every run and no deadline, so that a build never fails by chance.
settings.register_profile("callgate", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("callgate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take minutes first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: "proofs" not in item.path.parts)


def pytest_configure(config: pytest.Config) -> None:
    """Starts Postgres in the main pytest process. The workers of xdist inherit its address through the environment."""
    if hasattr(config, "workerinput") or _SERVER in os.environ:
        return
    url = os.environ.get("CALLGATE_DATABASE_URL")
    if url is None:
        directory = Path(tempfile.mkdtemp(prefix="callgate-tests-"))
        directory.chmod(0o755)  # root's Postgres runs as the user nobody
        postgres = EmbeddedPostgres(directory, durable=False)
        postgres.start()
        config.add_cleanup(partial(_end, postgres, directory))
        url = postgres.url
    os.environ[_SERVER] = url
    config.add_cleanup(partial(os.environ.__delitem__, _SERVER))
    asyncio.run(_make(url, _TEMPLATE, "template0"))
    migrate(_named(url, _TEMPLATE))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the output of developer tools, which a test has stored with `record_property("output", …)`."""
    for report in terminalreporter.getreports("passed"):
        for text in (str(value) for name, value in report.user_properties if name == "output"):
            terminalreporter.section(report.nodeid, sep="-")
            terminalreporter.write_line(text.strip())


def _end(postgres: EmbeddedPostgres, directory: Path) -> None:
    postgres.stop()
    remove_postgres_data(directory)
    shutil.rmtree(directory)


def _named(url: str, database: str) -> str:
    return make_url(url).set(drivername="postgresql+asyncpg", database=database).render_as_string(hide_password=False)


async def _make(server: str, database: str, template: str) -> str:
    connection = await asyncpg.connect(make_url(server).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
    finally:
        await connection.close()
    return _named(server, database)


@pytest.fixture(scope="module")
async def database_url() -> str:
    """Returns the URL of a new database that has all tables and no rows."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return await _make(os.environ[_SERVER], f"callgate_{worker}_{next(_numbers)}", _TEMPLATE)


@pytest.fixture
async def empty_database_url() -> str:
    """Returns the URL of a new database without any table."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return await _make(os.environ[_SERVER], f"callgate_{worker}_{next(_numbers)}", "template0")


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url)) as running:
        yield running


@pytest.fixture
async def patient_gateway(database_url: str) -> AsyncIterator[Gateway]:
    """A second gateway on the same database. Its timeouts for Twilio's answers are longer (LONG_TIMEOUTS)."""
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL, **LONG_TIMEOUTS)) as running:
        yield running


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server in place of Twilio that creates a call for each request."""
    async with running_upstream(created()) as running:
        yield running


@pytest.fixture
async def tenant(gateway: Gateway, upstream: Upstream) -> Tenant:
    return await gateway.add_tenant(upstream.url)
