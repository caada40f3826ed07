"""Each client address may send only a limited number of wrong API keys. A valid key from the same address still works."""

from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from app.errors import TooManyAttempts
from app.http.key_attempts import FailedAuthenticationLimiter
from app.settings import SettingsError, load_settings
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for

ADDRESS = "203.0.113.7"
PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_of(attempts: FailedAuthenticationLimiter, address: str = ADDRESS, key: bytes = b"wrong") -> int | None:
    """Returns the seconds that a refused client has to wait; None if the key would be looked up in the database."""
    try:
        attempts.require_below_failure_limit(address, key)
    except TooManyAttempts as error:
        return error.retry_after_s
    return None


def test_an_address_may_send_so_many_wrong_keys_in_a_minute() -> None:
    attempts = FailedAuthenticationLimiter(per_minute=3, clock=(clock := Clock()))
    for _ in range(3):
        assert wait_of(attempts) is None
        attempts.record_wrong_key(ADDRESS, b"wrong")
    assert wait_of(attempts) == 20
    assert wait_of(attempts, "203.0.113.8") is None
    clock.now += 19.5
    assert wait_of(attempts) == 1
    clock.now += 1
    assert wait_of(attempts) is None
    attempts.record_wrong_key(ADDRESS, b"wrong")
    assert wait_of(attempts) == 20
    for _ in range(100):  # answered together: they do not make the wait longer than a minute
        attempts.record_wrong_key(ADDRESS, b"wrong")
    clock.now += 60
    for _ in range(3):
        assert wait_of(attempts) is None
        attempts.record_wrong_key(ADDRESS, b"wrong")
    assert wait_of(attempts) == 20


def test_a_key_that_was_valid_is_looked_up_until_it_is_wrong() -> None:
    attempts = FailedAuthenticationLimiter(per_minute=1, clock=Clock())
    attempts.record_valid_key(b"valid")
    attempts.record_wrong_key(ADDRESS, b"wrong")
    assert wait_of(attempts) == 60
    assert wait_of(attempts, key=b"valid") is None
    attempts.record_wrong_key(ADDRESS, b"valid")
    assert wait_of(attempts, key=b"valid") == 60


def test_memory_is_bounded() -> None:
    attempts = FailedAuthenticationLimiter(per_minute=1, clock=Clock())
    for number in range(25_000):
        attempts.record_wrong_key(str(number), b"wrong")
        attempts.record_valid_key(str(number).encode())
    assert len(attempts._forgotten_at) == len(attempts._valid_keys) == 10_000
    assert wait_of(attempts, "24999") == 60
    assert wait_of(attempts, "24999", b"24999") is None
    assert wait_of(attempts, "0") is None


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        (None, [], "unknown"),
        ("/run/callgate.sock", [], "unknown"),
        # A peer that is no trusted proxy may send what it likes.
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.66, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.66", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        ("fd00::1", ["192.0.2.66, 2001:db8:1:2::9"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8:1:2::9]:4711"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1" + ", 10.0.0.2" * 31], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1" + ", 10.0.0.2" * 32], "10.0.0.2"),
    ],
)
def test_the_address_of_a_client(peer: str | None, forwarded: list[str], expected: str) -> None:
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    scope: dict[str, Any] = {"type": "http", "client": (peer, 0) if peer else None, "headers": headers}
    assert FailedAuthenticationLimiter(per_minute=1, proxies=PROXIES).rate_limit_address(scope) == expected


async def refused(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
    """Sends wrong keys until the address has no attempt left, and returns the first answer that is not a 401."""
    for number in range(50):
        headers = {"Authorization": f"Bearer cgk_000000000000_{number}"} | more.pop("headers", {})
        response = await http.request(method, path, headers=headers, **more)
        if response.status_code != 401:
            return response
    raise AssertionError("50 wrong keys were answered with 401")


async def test_after_a_flood_of_wrong_keys_valid_keys_work_and_others_are_told_to_wait(database_url: str) -> None:
    async with running_gateway(settings_for(database_url, key_attempts=1)) as gateway:
        tenant = await gateway.add_tenant()
        assert (await tenant.http.get("/v1/calls")).status_code == 200
        wrong = await refused(tenant.http, "POST", "/v1/calls", json=BASIC_CALL)
        assert (wrong.status_code, wrong.json()["type"]) == (429, "urn:callgate:problem:too-many-attempts")
        assert wrong.json()["execution"] == "not_started"
        assert int(wrong.headers["Retry-After"]) == wrong.json()["retry"]["after_s"] > 0
        for _ in range(2):
            assert (await tenant.http.get("/v1/calls")).status_code == 200
            gateway.invalidate_cache()  # what is cached does not matter

        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        in_twilios_shape = await refused(tenant.http, "POST", path)
        assert (in_twilios_shape.status_code, in_twilios_shape.json()["code"]) == (429, 20429)
        assert int(in_twilios_shape.headers["Retry-After"]) > 0
        assert (await tenant.http.get(path)).status_code == 200
        async with http_client(base_url=gateway.url) as without_a_key:
            assert (await without_a_key.get("/v1/calls")).status_code == 401


async def test_behind_trusted_proxies_each_client_has_a_limit_of_its_own(database_url: str) -> None:
    settings = settings_for(database_url, key_attempts=1, trusted_proxies="127.0.0.0/8")
    async with running_gateway(settings) as gateway:
        tenant = await gateway.add_tenant()
        flooding, other = {"X-Forwarded-For": "198.51.100.1"}, {"X-Forwarded-For": "198.51.100.2"}
        async with http_client(base_url=gateway.url, headers=flooding) as http:
            assert (await refused(http, "GET", "/v1/calls")).status_code == 429
        assert await status_of_new_key(gateway, tenant, other) == 200


async def status_of_new_key(gateway: Gateway, tenant: Tenant, headers: dict[str, str]) -> int:
    _, key = await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
    return (await tenant.http.get("/v1/calls", headers=headers | {"Authorization": f"Bearer {key}"})).status_code


def test_a_proxy_that_is_no_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_TRUSTED_PROXIES", "10.0.0.0/8, ingress")
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES: 'ingress' is not a network"):
        load_settings()
