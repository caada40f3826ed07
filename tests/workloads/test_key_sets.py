"""Tests key sets from a file, an API server or a discovery document: they change without a refusal, and survive an outage."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.observability import Metrics
from app.settings import Settings
from app.workloads.authentication import WorkloadTokenValidator
from app.workloads.key_set import JwkSetUnavailable, JwkSetUnreadable
from app.workloads.key_sources import jwk_set_source
from app.workloads.tokens import TokenRefused, TokenVerifier
from tests.support.certificates import write_self_signed_certificate
from tests.support.cluster import ISSUER, KubernetesCluster, api_server, rsa_key, running_https_upstream
from tests.support.upstream import answer, endless_head, hang, refused_url, reset, running_upstream

JWKS = "/openid/v1/jwks"
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_self_signed_certificate(tmp_path_factory.mktemp("tls"))


def settings(keys: object, **values: Any) -> Settings:
    return Settings.model_validate({"workload_issuer": ISSUER, "workload_keys": str(keys)} | values)


async def read(keys: object, *, issuer: str = ISSUER, **values: Any) -> bytes:
    return await jwk_set_source(settings(keys, **values), issuer=issuer).read()


@asynccontextmanager
async def running(
    keys: object, metrics: Metrics | None = None, *, interval_s: float = 1.0
) -> AsyncIterator[WorkloadTokenValidator]:
    """Yields a running validator of tokens, which reads the key set at shorter intervals than in production."""
    source = replace(jwk_set_source(settings(keys), issuer=ISSUER), interval_s=interval_s, min_interval_s=0.2)
    tokens = WorkloadTokenValidator(TokenVerifier(ISSUER, "callgate"), source, (metrics or Metrics()).workloads)
    async with tokens.refreshing_keys_in_background():
        yield tokens


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def reason_of(tokens: WorkloadTokenValidator, token: str) -> str | None:
    try:
        await tokens.validate(token)
    except TokenRefused as refused:
        return refused.reason
    except JwkSetUnavailable:
        return "unavailable"
    return None


async def has_reason(tokens: WorkloadTokenValidator, token: str, reason: str | None) -> bool:
    return await reason_of(tokens, token) == reason


async def has_state(tokens: WorkloadTokenValidator, state: str) -> bool:
    return tokens.key_set_state == state


async def test_an_api_server_is_asked_with_its_ca_and_a_token_that_is_read_again(certificate: Path, tmp_path: Path) -> None:
    cluster, token = KubernetesCluster(), tmp_path / "token"
    token.write_text("one\n")
    files: dict[str, Any] = {"workload_keys_ca_file": certificate, "workload_keys_token_file": token}
    async with running_https_upstream(
        certificate, api_server(cluster, token="one"), api_server(cluster, token="two")
    ) as server:
        assert await read(server.url + JWKS, **files) == cluster.key_set()
        token.write_text("two\n")
        assert await read(server.url + JWKS, **files) == cluster.key_set()
        with pytest.raises(JwkSetUnreadable, match="status_403"):
            await read(server.url + JWKS, workload_keys_ca_file=certificate)
        with pytest.raises(JwkSetUnreadable, match="certificate_not_trusted"):
            await read(server.url + JWKS)
        token.unlink()
        with pytest.raises(JwkSetUnreadable, match="token_file_missing"):
            await read(server.url + JWKS, **files)
        with pytest.raises(JwkSetUnreadable, match="ca_file_not_readable"):
            await read(server.url + JWKS, workload_keys_ca_file=tmp_path / "missing")


async def test_a_discovery_document_leads_to_the_key_set_of_its_issuer_only(certificate: Path, tmp_path: Path) -> None:
    cluster, token = KubernetesCluster(), tmp_path / "token"
    token.write_text("secret")
    files: dict[str, Any] = {"workload_keys_ca_file": certificate, "workload_keys_token_file": token}
    async with running_https_upstream(certificate, api_server(cluster)) as server:
        assert await read(server.url + DISCOVERY, **files) == cluster.key_set()
        assert [request.headers.get("authorization") for request in server.received] == ["Bearer secret"] * 2
        with pytest.raises(JwkSetUnreadable, match="discovery_of_another_issuer"):
            await read(server.url + DISCOVERY, issuer=f"{ISSUER}/", **files)
    async with (
        running_https_upstream(certificate, api_server(cluster)) as other,
        running_https_upstream(certificate, api_server(cluster, keys_url=lambda: other.url + JWKS)) as server,
    ):
        assert await read(server.url + DISCOVERY, **files) == cluster.key_set()
        assert "authorization" not in other.received[-1].headers  # the token is for the other server
    for keys_url in ("http://keys.example.com/jwks", "file:///etc/passwd", "", None):
        document = {"issuer": ISSUER, "jwks_uri": keys_url}
        async with running_https_upstream(certificate, answer(200, document)) as server:
            with pytest.raises(JwkSetUnreadable, match="discovery_without_https_key_set"):
                await read(server.url + DISCOVERY, **files)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answer(404), "status_404"),
        (answer(302, headers={"Location": "http://127.0.0.1:9/"}), "status_302"),
        (answer(200, body=b"x" * 300_000), "too_long"),
        (endless_head, "no_answer"),
        (reset, "no_answer"),
        (hang, "timeout"),
    ],
)
async def test_what_goes_wrong_has_a_name(behaviour: Any, reason: str) -> None:
    async with running_upstream(behaviour) as server:
        with pytest.raises(JwkSetUnreadable, match=reason):
            await read(server.url + JWKS)
    with pytest.raises(JwkSetUnreadable, match="no_connection"):
        await read(refused_url() + JWKS)


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    cluster, path = KubernetesCluster(), tmp_path / "jwks.json"
    old = cluster.token()
    async with running(path) as tokens:
        assert await reason_of(tokens, old) == "unavailable"
        assert tokens.key_set_state == "unavailable"
        cluster.write_to(path)
        await until(lambda: has_reason(tokens, old, None))
        cluster.rotate("second")
        cluster.write_to(path)
        assert await reason_of(tokens, cluster.token()) is None  # at once
        assert await reason_of(tokens, old) is None
        cluster.rotate("third", keep=False)
        cluster.write_to(path)
        # A token that was accepted is refused, too, once its key is gone.
        await until(lambda: has_reason(tokens, old, "unknown_key"))
        path.unlink()
        await until(lambda: has_state(tokens, "stale"))
        assert await reason_of(tokens, cluster.token()) is None


async def test_keys_are_rotated_without_a_refused_token_and_with_few_reads() -> None:
    cluster = KubernetesCluster()
    async with running_upstream(api_server(cluster)) as server, running(server.url + JWKS, interval_s=300) as tokens:
        assert await reason_of(tokens, cluster.token()) is None
        cluster.rotate("second")
        # A hundred strangers name keys that do not exist; the new key is among them.
        strangers = [KubernetesCluster(keys={f"stranger {number}": cluster.keys["first"]}) for number in range(100)]
        results = await asyncio.gather(
            *(reason_of(tokens, stranger.token()) for stranger in strangers), reason_of(tokens, cluster.token(lifetime_s=600))
        )
        assert (set(results[:-1]), results[-1]) == ({"unknown_key"}, None)
        assert len(server.received) == 2
        assert await reason_of(tokens, cluster.token()) is None
        assert len(server.received) == 2


async def test_a_token_that_would_be_refused_anyway_causes_no_read() -> None:
    cluster = KubernetesCluster()
    async with running_upstream(api_server(cluster)) as server, running(server.url + JWKS, interval_s=300) as tokens:
        assert await reason_of(tokens, cluster.token()) is None
        assert await reason_of(tokens, cluster.token(key_id="stranger", key=cluster.keys["first"], aud="x")) == "audience"
        assert len(server.received) == 1


async def test_the_last_good_set_is_used_while_the_server_cannot_be_read() -> None:
    cluster, metrics = KubernetesCluster(), Metrics()
    old = cluster.token()
    async with running_upstream(api_server(cluster)) as server, running(server.url + JWKS, metrics) as tokens:
        for number, failure in enumerate((answer(500), answer(200, {"keys": {}}), reset)):
            assert await reason_of(tokens, old) is None
            assert (tokens.key_set_state, stale(metrics)) == ("ok", 0)
            server.script[:] = [failure]
            cluster.rotate(f"new {number}")
            new = cluster.token()
            assert await reason_of(tokens, new) == "unavailable"
            assert await reason_of(tokens, old) is None
            assert await reason_of(tokens, cluster.token(key_id="first")) is None
            assert (tokens.key_set_state, stale(metrics)) == ("stale", 1)
            server.script[:] = [api_server(cluster)]
            await until(lambda token=new: has_reason(tokens, token, None))  # type: ignore[misc]
        read_at = metrics.registry.get_sample_value("callgate_workload_key_set_read_timestamp_seconds")
        assert read_at is not None
        assert read_at > 0


@pytest.mark.parametrize("keys", [[], [{"kty": "oct", "k": "AA", "kid": "first"}]], ids=["empty", "unusable"])
async def test_a_key_set_without_a_usable_key_revokes_the_keys_before_it(tmp_path: Path, keys: list[object]) -> None:
    cluster, path, metrics = KubernetesCluster(), tmp_path / "jwks.json", Metrics()
    cluster.write_to(path)
    token = cluster.token()
    async with running(path, metrics) as tokens:
        assert await reason_of(tokens, token) is None
        assert tokens.cached_service_account(token) is not None
        path.write_text(json.dumps({"keys": keys}))
        await until(lambda: has_state(tokens, "unavailable"))
        assert tokens.cached_service_account(token) is None
        assert await reason_of(tokens, token) == "unavailable"
        assert stale(metrics) == 1
        cluster.write_to(path)
        await until(lambda: has_reason(tokens, token, None))
        assert (tokens.key_set_state, stale(metrics)) == ("ok", 0)


def stale(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("callgate_workload_key_set_stale")


async def test_a_token_of_a_replaced_key_is_no_longer_accepted(tmp_path: Path) -> None:
    cluster, path = KubernetesCluster(), tmp_path / "jwks.json"
    cluster.write_to(path)
    token = cluster.token()
    async with running(path) as tokens:
        assert await reason_of(tokens, token) is None
        cluster.keys = {"first": rsa_key("replaced")}
        cluster.write_to(path)
        await until(lambda: has_reason(tokens, token, "signature"))
