"""A service account token is accepted only if each of its checks succeeds. A refusal names the check, not the token."""

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.workloads.key_set import JwkSetUnreadable, parse_jwk_set
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import (
    JWT_ALGORITHMS,
    MAX_CLOCK_SKEW_S,
    MAX_TOKEN_LENGTH,
    MAX_TOKEN_LIFETIME_S,
    TokenRefused,
    TokenVerifier,
)
from tests.support.cluster import ISSUER, KubernetesCluster, PrivateKey, encode_segment, jwk, public_pem, rsa_key

RULES = TokenVerifier(ISSUER, "callgate")
NOW = int(time.time())
CLUSTER = KubernetesCluster()


def validate(token: str, cluster: KubernetesCluster = CLUSTER) -> ServiceAccount:
    return RULES.validate(token, parse_jwk_set(cluster.key_set())[RULES.read_key_id(token)]).service_account


def refusal(token: str, cluster: KubernetesCluster = CLUSTER) -> TokenRefused:
    with pytest.raises(TokenRefused) as refused:
        validate(token, cluster)
    return refused.value


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    return f"{encode_segment(header)}.{encode_segment(claims)}.{signature}"


@pytest.mark.parametrize(
    "key", [rsa_key("first"), *(ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))]
)
def test_a_projected_token_names_its_service_account(key: PrivateKey) -> None:
    cluster = KubernetesCluster(keys={"k": key})
    assert validate(cluster.token(), cluster) == ServiceAccount(ISSUER, "shop", "checkout")
    assert validate(cluster.token(aud=["other", "callgate"]), cluster) == ServiceAccount(ISSUER, "shop", "checkout")
    assert validate(cluster.token(aud="callgate", namespace="a", name="b.c-d"), cluster) == ServiceAccount(ISSUER, "a", "b.c-d")
    assert validate(cluster.token(namespace="a" * 63, name="b" * 253), cluster) == ServiceAccount(ISSUER, "a" * 63, "b" * 253)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": f"{ISSUER}/"}, "issuer"),
        ({"iss": ISSUER.upper()}, "issuer"),
        ({"aud": ["callgate.example.com"]}, "audience"),
        ({"aud": "callgate "}, "audience"),
        ({"aud": [["callgate"]]}, "audience"),
        ({"aud": []}, "missing_claim"),
        ({"iat": NOW - 3600, "exp": NOW - MAX_CLOCK_SKEW_S - 1}, "expired"),
        ({"nbf": NOW + 86_400}, "not_yet_valid"),
        ({"iat": NOW + 86_400}, "not_yet_valid"),
        ({"lifetime_s": MAX_TOKEN_LIFETIME_S + 1}, "lifetime"),
        ({"iat": NOW - MAX_TOKEN_LIFETIME_S, "exp": NOW + 7200}, "lifetime"),
        ({"exp": 1e300}, "lifetime"),
        ({"iat": NOW + 0.5, "exp": 10**400}, "lifetime"),
        ({"exp": None}, "missing_claim"),
        ({"iat": None}, "missing_claim"),
        ({"iss": None}, "missing_claim"),
        ({"aud": None}, "missing_claim"),
        ({"sub": None}, "missing_claim"),
        ({"exp": str(NOW + 7200)}, "malformed"),
        ({"iat": True}, "malformed"),
        ({"nbf": "soon"}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"sub": 7}, "malformed"),
        ({"kubernetes.io": None}, "no_service_account"),
        ({"kubernetes.io": "shop"}, "no_service_account"),
        ({"kubernetes.io": {"namespace": "shop"}}, "no_service_account"),
        ({"kubernetes.io": {"namespace": "shop", "serviceaccount": "checkout"}}, "no_service_account"),
        ({"kubernetes.io": {"namespace": "other", "serviceaccount": {"name": "checkout"}}}, "no_service_account"),
        ({"kubernetes.io": {"namespace": ["shop"], "serviceaccount": {"name": "checkout"}}}, "no_service_account"),
        ({"sub": "system:serviceaccount:shop:payment"}, "no_service_account"),
        ({"sub": "system:serviceaccount:shop:checkout:x"}, "no_service_account"),
        ({"sub": "system:node:shop:checkout"}, "no_service_account"),
        # If the parts were joined, each of these would be another workload.
        ({"namespace": "shop:checkout", "name": "x"}, "no_service_account"),
        ({"namespace": "shop", "name": "checkout:x"}, "no_service_account"),
        ({"namespace": "Shop"}, "no_service_account"),
        ({"namespace": "shop\n"}, "no_service_account"),
        ({"namespace": "a" * 64}, "no_service_account"),
        ({"name": "a" * 254}, "no_service_account"),
        ({"name": "-checkout"}, "no_service_account"),
        ({"name": ""}, "no_service_account"),
    ],
)
def test_a_wrong_claim_is_refused_by_name(claims: dict[str, Any], reason: str) -> None:
    assert refusal(CLUSTER.token(**claims)).reason == reason


def test_the_limits_are_those_documented() -> None:
    assert (JWT_ALGORITHMS, MAX_CLOCK_SKEW_S, MAX_TOKEN_LIFETIME_S) == (("RS256", "ES256", "ES384", "ES512"), 30, 24 * 3600)


def test_a_token_is_accepted_within_the_leeway() -> None:
    now = int(time.time())
    assert validate(CLUSTER.token(iat=now - 60, exp=now - MAX_CLOCK_SKEW_S + 10))
    assert validate(CLUSTER.token(iat=now + MAX_CLOCK_SKEW_S - 10, nbf=now + MAX_CLOCK_SKEW_S - 10))
    assert validate(CLUSTER.token(lifetime_s=MAX_TOKEN_LIFETIME_S))


def test_only_the_algorithm_of_the_key_is_accepted() -> None:
    claims, key = CLUSTER.claims(), CLUSTER.keys["first"]
    symmetric = jwt.api_jws.PyJWS()
    header = {"kid": "first"}
    forged = [
        unsigned({"alg": alg, "typ": "JWT", "kid": "first"}, claims) for alg in ("none", "None", "", None, "HS256", ["RS256"])
    ]
    # The public key as the secret of an HMAC, which PyJWT itself refuses to make.
    head, body = encode_segment({"alg": "HS256", "kid": "first"}), encode_segment(claims)
    hmac = symmetric.get_algorithm_by_name("HS256")
    for secret in (public_pem(key), public_pem(key).strip()):
        signature = hmac.sign(f"{head}.{body}".encode(), secret)
        forged.append(f"{head}.{body}.{jwt.utils.base64url_encode(signature).decode()}")
    forged += [jwt.encode(claims, key, algorithm=algorithm, headers=header) for algorithm in ("RS384", "RS512", "PS256")]
    forged.append(jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header))
    assert {refusal(token).reason for token in forged} == {"algorithm"}


def test_a_changed_token_is_refused() -> None:
    head, body, signature = CLUSTER.token().split(".")
    other_body = CLUSTER.token(name="payment").split(".")[1]
    assert refusal(f"{head}.{other_body}.{signature}").reason == "signature"
    assert refusal(f"{head}.{body}.{signature[:-8]}AAAAAAAA").reason == "signature"
    assert refusal(f"{head}.{body}.").reason == "signature"
    assert refusal(CLUSTER.token(key=rsa_key("another"), key_id="first")).reason == "signature"


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "..",
        "eyJhbGciOiJSUzI1NiJ9",
        unsigned({"alg": "RS256", "kid": "first"}, {})[:-1] + ".é",
        unsigned({"alg": "RS256", "kid": 1}, {}),
        unsigned({"alg": "RS256", "kid": "first", "crit": ["exp"], "exp": 1}, {}),
        encode_segment([]) + "." + encode_segment({}) + ".",
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token).reason == "malformed"


def test_a_token_without_a_key_id_or_of_excessive_length_is_refused() -> None:
    assert refusal(unsigned({"alg": "RS256"}, CLUSTER.claims())).reason == "unknown_key"
    assert refusal(unsigned({"alg": "RS256", "kid": ""}, CLUSTER.claims())).reason == "unknown_key"
    assert refusal(CLUSTER.token(padding="x" * MAX_TOKEN_LENGTH)).reason == "too_long"


def test_a_refusal_holds_nothing_of_the_token() -> None:
    planted: list[dict[str, Any]] = [
        {"iss": "https://planted.example.com"},
        {"aud": "planted"},
        {"namespace": "Planted", "sub": "planted"},
    ]
    for claims in planted:
        assert "planted" not in str(refusal(CLUSTER.token(**claims))).lower()


def test_a_key_set_has_only_public_keys_for_signatures() -> None:
    good = rsa_key("first")
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(good)) | {"kid": "private"}
    listed = [
        jwk(good, "good"),
        jwk(good, "encryption", use="enc"),
        jwk(good, "other algorithm", alg="RS512"),
        jwk(good, "unknown algorithm", alg="X"),
        jwk(rsa_key("small", 1024), "too short"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric", "alg": "HS256"},
        {"kty": "RSA", "kid": "incomplete"},
        {"kty": "RSA", "kid": "numbers", "n": 1, "e": 2},
        {key: value for key, value in jwk(good, "").items() if key != "kid"},
        private,
        "text",
        None,
    ]
    assert list(parse_jwk_set(json.dumps({"keys": listed}).encode())) == ["good"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"<html>", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_a_key_set"),
        (b'{"keys": {}}', "not_a_key_set"),
        (b'{"keys": []}', "no_usable_key"),
        (b'{"keys": [{"kty": "oct", "k": "AA", "kid": "a"}]}', "no_usable_key"),
    ],
)
def test_what_is_no_key_set_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(JwkSetUnreadable, match=f"^{reason}$"):
        parse_jwk_set(body)
