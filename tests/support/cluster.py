"""A Kubernetes cluster that issues service account tokens: real signing keys, a key set, and servers for the key set."""

import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.support.upstream import Behaviour, Upstream, answer, running_upstream

ISSUER = "https://kubernetes.default.svc.cluster.local"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(name: str, size: int = 2048) -> rsa.RSAPrivateKey:
    """Returns the same RSA key each time for the same name and size."""
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


def jwk(key: PrivateKey, key_id: str, **members: Any) -> dict[str, Any]:
    """Returns the public key as a member of a key set, as the API server of Kubernetes writes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", "alg": "RS256"} | members
    document = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**document, "kid": key_id, "use": "sig"} | members


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def encode_segment(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@dataclass
class KubernetesCluster:
    """A Kubernetes cluster that signs tokens with the last key in `keys`. The key set publishes all of `keys`."""

    issuer: str = ISSUER
    keys: dict[str, PrivateKey] = field(default_factory=lambda: {"first": rsa_key("first")})

    def claims(
        self, *, namespace: str = "shop", name: str = "checkout", lifetime_s: int = 3600, **changed: Any
    ) -> dict[str, Any]:
        """Returns the claims of a projected token of Kubernetes 1.30. A claim that is changed to None is left out."""
        now = int(time.time())
        claims = {
            "aud": ["callgate"],
            "exp": now + lifetime_s,
            "iat": now,
            "iss": self.issuer,
            "jti": "0f9a3b1c-6d2e-4a58-9c77-1f0d3a5b7e21",
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": "node-1", "uid": "8c1d8a0e-51f4-4a52-9f0f-2f2f3f6f9f10"},
                "pod": {"name": f"{name}-7d4b9c-x2x5z", "uid": "5e0c0b7e-3a67-4b0f-8a10-0d6a1a7b8c9d"},
                "serviceaccount": {"name": name, "uid": "b2a3f1d4-7c6e-4e8f-9a0b-1c2d3e4f5a6b"},
            },
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        return {claim: value for claim, value in (claims | changed).items() if value is not None}

    def token(self, *, key_id: str | None = None, key: PrivateKey | None = None, **claims: Any) -> str:
        """Returns a token that is signed with the newest key, or with the given one."""
        key_id = key_id or list(self.keys)[-1]
        key = key or self.keys[key_id]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else f"ES{min(key.curve.key_size, 512)}"
        return jwt.encode(self.claims(**claims), key, algorithm=algorithm, headers={"kid": key_id})

    def rotate(self, key_id: str, *, keep: bool = True) -> None:
        """Adds a key that signs all further tokens. Without `keep`, removes all older keys."""
        self.keys = {**(self.keys if keep else {}), key_id: rsa_key(key_id)}

    def key_set(self) -> bytes:
        return json.dumps({"keys": [jwk(key, key_id) for key_id, key in self.keys.items()]}).encode()

    def write_to(self, path: Path) -> None:
        """Writes the key set to a file, which is replaced atomically, as the kubelet does."""
        new = path.with_suffix(".new")
        new.write_bytes(self.key_set())
        new.rename(path)


def api_server(cluster: KubernetesCluster, *, token: str | None = None, keys_url: Callable[[], str] | None = None) -> Behaviour:
    """Returns a behaviour of Upstream that serves the key set and the discovery document, as an API server of Kubernetes does.

    With `token`, requests without this token are answered with 403.
    """

    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        request = upstream.received[-1]
        path = urlsplit(request.path).path
        if token is not None and request.headers.get("authorization") != f"Bearer {token}":
            response = answer(403, {"kind": "Status", "reason": "Forbidden"})
        elif path == "/openid/v1/jwks":
            response = answer(200, body=cluster.key_set())
        elif path == "/.well-known/openid-configuration":
            url = keys_url() if keys_url else f"{upstream.url}/openid/v1/jwks"
            response = answer(200, {"issuer": cluster.issuer, "jwks_uri": url})
        else:
            response = answer(404, {"kind": "Status"})
        await response(upstream, reader, writer)

    return behave


@asynccontextmanager
async def running_https_upstream(certificate: Path, *script: Behaviour) -> AsyncIterator[Upstream]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with running_upstream(*script, tls=tls) as upstream:
        yield upstream
