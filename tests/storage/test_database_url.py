"""Every parameter of a database URL is supported, or refused with one line that names it and shows no secret."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.database_url import DatabaseURL, DatabaseURLError, Keepalive
from app.settings import SettingsError, load_settings

BASE = "postgresql://callgate:planted@db.example.com/calls"


def tls(url: str) -> dict[str, str]:
    """Returns the TLS parameters of the URL that is passed to asyncpg, which accepts some of them only in a URL."""
    query = urlsplit(DatabaseURL.parse(url).connect_arguments["dsn"]).query
    return {name: values[0] for name, values in parse_qs(query).items()}


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_scheme_is_accepted(scheme: str) -> None:
    url = DatabaseURL.parse(f"{scheme}://call%40gate:p%2Fa@ss@db.example.com:6432/calls%20x\n")
    assert url.hosts == (("db.example.com", 6432),)
    assert url.connect_arguments == {"user": "call@gate", "password": "p/a@ss", "database": "calls x"}
    assert url.server_settings == {"application_name": "callgate", "timezone": "UTC"}


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@one/d", [("one", 5432)]),
        ("postgresql://u@one:1,two:2/d", [("one", 1), ("two", 2)]),
        ("postgresql://u@one,two:2/d", [("one", 5432), ("two", 2)]),
        ("postgresql://u@[::1]:5433,[fe80::1%25eth0]/d", [("::1", 5433), ("fe80::1%eth0", 5432)]),
        ("postgresql:///d?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql:///d?host=one,two&port=1", [("one", 1), ("two", 1)]),
        ("postgresql:///d?host=one:1&host=two:2", [("one", 1), ("two", 2)]),
        ("postgresql://u@/d?host=/var/run/postgresql&port=5433", [("/var/run/postgresql", 5433)]),
        ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/d", [("/var/run/postgresql", 5432)]),
        ("postgresql:///d", []),
        ("postgresql://", []),
    ],
)
def test_hosts_and_ports_are_parsed(url: str, hosts: list[tuple[str, int]]) -> None:
    assert list(DatabaseURL.parse(url).hosts) == hosts


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("sslmode=verify-ca", {"sslmode": "verify-ca"}),
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=require", {"sslmode": "require"}),
        ("ssl=false", {"sslmode": "disable"}),
        ("sslmode=verify-full&sslrootcert={file}", {"sslmode": "verify-full", "sslrootcert": "{file}"}),
        (
            "sslmode=require&sslcert={file}&sslkey={file}&sslpassword=x",
            {"sslmode": "require", "sslcert": "{file}", "sslkey": "{file}", "sslpassword": "x"},
        ),
        ("sslmode=require&sslnegotiation=direct", {"sslmode": "require", "sslnegotiation": "direct"}),
        ("ssl_min_protocol_version=TLSv1.3", {"ssl_min_protocol_version": "TLSv1.3"}),
        ("sslmode=require&channel_binding=prefer", {"sslmode": "require"}),
        ("channel_binding=require&sslrootcert={file}", {"sslmode": "verify-full", "sslrootcert": "{file}"}),
        (
            "sslmode=verify-ca&channel_binding=require&sslrootcert={file}",
            {"sslmode": "verify-ca", "sslrootcert": "{file}"},
        ),
    ],
)
def test_tls_parameters_are_parsed(member: str, expected: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "a file.pem"
    file.touch()
    found = tls(f"{BASE}?{member}".replace("{file}", str(file).replace(" ", "%20")))
    assert found == {name: value.replace("{file}", str(file)) for name, value in expected.items()}


@pytest.mark.parametrize("member", ["sslmode=require&channel_binding=require", "sslrootcert=system&sslmode=verify-full"])
def test_neons_url_verifies_the_certificate_with_the_systems_roots(member: str) -> None:
    assert DatabaseURL.parse(f"{BASE}?{member}").connect_arguments["ssl"] is True


@pytest.mark.parametrize(
    ("member", "attribute", "expected"),
    [
        ("connect_timeout=10", "connect_timeout_s", 10),
        ("connect_timeout=0", "connect_timeout_s", None),
        ("prepared_statement_cache_size=0", "statement_cache_size", 0),
        ("statement_cache_size=20", "statement_cache_size", 20),
        ("keepalives=0", "keepalive", Keepalive(on=False)),
        (
            "keepalives_idle=1&keepalives_interval=2&keepalives_count=4&tcp_user_timeout=0",
            "keepalive",
            Keepalive(True, 1, 2, 4, None),
        ),
        ("application_name=us", "server_settings", {"application_name": "us", "timezone": "UTC"}),
        ("fallback_application_name=us", "server_settings", {"application_name": "us", "timezone": "UTC"}),
        (
            "options=-c%20work_mem%3D8MB",
            "server_settings",
            {"application_name": "callgate", "timezone": "UTC", "options": "-c work_mem=8MB"},
        ),
        ("client_encoding=utf8&gssencmode=disable&sslsni=1&load_balance_hosts=disable", "hosts", (("db.example.com", 5432),)),
    ],
)
def test_other_parameters_are_parsed(member: str, attribute: str, expected: Any) -> None:
    assert getattr(DatabaseURL.parse(f"{BASE}?{member}"), attribute) == expected


@pytest.mark.parametrize("name", ["user", "password", "dbname", "passfile", "target_session_attrs"])
def test_parameters_of_the_driver_are_parsed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "passfile"
    file.touch()
    value = {"passfile": str(file), "target_session_attrs": "read-write"}.get(name, "other")
    found = DatabaseURL.parse(f"{BASE}?{name}={value}").connect_arguments
    assert found[{"dbname": "database"}.get(name, name)] == value


@pytest.mark.parametrize("spelling", ["a+b%20c", "a%2Bb%20c"])
def test_a_plus_sign_stands_for_itself(spelling: str) -> None:
    for url in (f"postgresql://u:{spelling}@host/d", f"postgresql://host/d?user=u&password={spelling}"):
        assert DatabaseURL.parse(url).connect_arguments["password"] == "a+b c"


INVALID_URLS = [
    ("mysql://callgate:planted@host/calls", "postgresql://"),
    ("planted", "postgresql://"),
    ("postgresql://callgate:pl#anted@host/calls", "#"),
    ("postgresql://callgate:pl anted@host/calls", "space"),
    ("postgresql://callgate:pl\nanted@host/calls", "space"),
    ("postgresql://callgate:pl/anted@host/calls", "%2F"),
    ("postgresql://callgate:12/planted@host/calls", "%2F"),
    ("postgresql://callgate:12?planted@host/calls", "%3F"),
    ("postgresql://callgate:12?planted=x@host/calls", "%3F"),
    ("postgresql://callgate:1@2?planted&sslmode=x@host/calls", "sslmode"),
    ("postgresql://callgate:1@2?planted&x@host/calls", "%3F"),
    ("postgresql://callgate:pl?anted@host/calls", "%3F"),
    ("postgresql://callgate:planted@host:port/calls", "port"),
    ("postgresql://callgate:planted@host:70000/calls", "port"),
    ("postgresql://callgate:planted@[::1/calls", "IPv6"),
    ("postgresql://callgate:planted@one,,two/calls", "host"),
    ("postgresql://callgate:planted@db..example.com/calls", "host"),
    (f"postgresql://callgate:planted@{'x' * 64}.example.com/calls", "host"),
    ("postgresql://callgate:planted@db%00/calls", "host"),
    ("postgresql:///calls?host=one,two,three&port=1,2", "3 hosts and 2 ports"),
    ("postgresql:///calls?port=5433", "port"),
    (f"{BASE}?sslmode=planted", "sslmode"),
    (f"{BASE}?ssl=planted", "ssl"),
    (f"{BASE}?sslrootcert=/planted", "sslrootcert"),
    (f"{BASE}?sslcert=/planted&sslkey=/planted", "sslcert"),
    (f"{BASE}?passfile=/planted", "passfile"),
    (f"{BASE}?sslrootcert=system&sslmode=verify-ca", "sslrootcert=system"),
    (f"{BASE}?channel_binding=planted", "channel_binding"),
    (f"{BASE}?channel_binding=require&sslmode=disable", "channel_binding=require"),
    (f"{BASE}?connect_timeout=planted", "connect_timeout"),
    (f"{BASE}?keepalives_idle=-1", "keepalives_idle"),
    (f"{BASE}?prepared_statement_cache_size=planted", "prepared_statement_cache_size"),
    (f"{BASE}?target_session_attrs=planted", "target_session_attrs"),
    (f"{BASE}?gssencmode=require", "gssencmode"),
    (f"{BASE}?client_encoding=planted", "client_encoding"),
    (f"{BASE}?service=planted", "service"),
    (f"{BASE}?pgbouncer=true", "max_prepared_statements"),
    (f"{BASE}?search_path=planted", "options="),
    (f"{BASE}?sslmod=require", "sslmod"),
]


@pytest.mark.parametrize(("url", "named"), INVALID_URLS)
def test_an_invalid_url_is_refused_without_showing_values(url: str, named: str) -> None:
    with pytest.raises(DatabaseURLError) as refused:
        DatabaseURL.parse(url)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "anted" not in str(refused.value)


@pytest.mark.parametrize(("url", "named"), INVALID_URLS)
def test_settings_refuse_an_invalid_url(url: str, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(database_url=url)
    assert str(refused.value).startswith("wrong settings: CALLGATE_DATABASE_URL: ")
    assert named in str(refused.value)
    assert "anted" not in str(refused.value)
    assert "anted" not in repr(refused.value.__cause__ or "")


def test_the_repr_shows_no_password() -> None:
    assert "planted" not in repr(DatabaseURL.parse(BASE))
