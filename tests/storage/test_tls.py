"""Calls can be placed over TLS with each TLS parameter of a database URL."""

from pathlib import Path

import pytest

from app.database.engine import Database
from app.errors import DatabaseUnavailable
from tests.support.certificates import write_self_signed_certificate
from tests.support.gateway import running_gateway, settings_for
from tests.support.tls_front import behind_tls
from tests.support.upstream import created, running_upstream


@pytest.fixture(scope="module")
def server_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the file with the server's private key and certificate."""
    return write_self_signed_certificate(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other_server_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_self_signed_certificate(tmp_path_factory.mktemp("anothers"))


@pytest.mark.parametrize(
    "members",
    [
        "",
        "sslmode=require",
        "ssl=true",
        "sslmode=verify-ca&sslrootcert={ours}",
        "sslmode=verify-full&sslrootcert={ours}&ssl_min_protocol_version=TLSv1.3",
        "sslmode=require&channel_binding=require&sslrootcert={ours}",
        "sslmode=require&sslnegotiation=direct",
        "sslmode=require&sslcert={ours}&sslkey={ours}",
    ],
)
async def test_a_call_is_placed_over_tls(database_url: str, server_files: Path, members: str) -> None:
    async with (
        behind_tls(database_url, server_files, direct="direct" in members, client_certificates="sslcert" in members) as url,
        running_gateway(settings_for(f"{url}?{members.format(ours=server_files)}")) as gateway,
        running_upstream(created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ("sslmode=verify-full&sslrootcert={anothers}", "tls"),
        ("sslmode=verify-ca&sslrootcert={anothers}", "tls"),
        ("sslmode=verify-full&sslrootcert=system", "tls"),
        ("sslmode=require&channel_binding=require", "tls"),
    ],
)
async def test_another_servers_certificate_is_refused(
    database_url: str, server_files: Path, other_server_files: Path, members: str, reason: str
) -> None:
    async with behind_tls(database_url, server_files, direct=False, client_certificates=False) as url:
        database = Database(f"{url}?{members.format(anothers=other_server_files)}", pool_size=1)
        with pytest.raises(DatabaseUnavailable) as refused:
            await database.ping()
        assert refused.value.reason == reason
        await database.close()
