"""Asks an OpenID Connect provider who a person is: authorization code with PKCE, `state` and `nonce`, then the ID token.

Authlib and joserfc build the requests and check the ID token. The HTTP client of app.twilio.client sends the requests.
The provider's key set is read again for each login, because logins are rare and keys change.
"""

import asyncio
import json
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from app import __version__
from app.console.oidc.login import LoginAttempt, ProviderFailed
from app.setting_values import is_https_or_loopback_url
from app.twilio.client import HttpClient
from app.twilio.response_body import BodyTooLong, read_response_body
from app.twilio.transport import AiohttpTransport
from app.workloads.key_sources import OPENID_DISCOVERY_PATH

_TIMEOUT_S = 10.0
_METADATA_MAX_AGE_S = 60.0
_FAILURE_MAX_AGE_S = 5.0
_MAX_RESPONSE_BYTES = 256 * 1024
_MAX_CLOCK_DIFFERENCE_S = 60
# Only signatures made with a private key, which the provider alone has: no `none`, and no HMAC with a shared secret.
_SIGNATURE_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")


@dataclass(slots=True)
class OidcProvider:
    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    scope: str
    _metadata: dict[str, Any] = field(default_factory=dict)
    _failure: str | None = None
    _read_again_at: float = -math.inf
    _reading: asyncio.Task[None] | None = None

    async def begin_authorization(self) -> tuple[str, LoginAttempt]:
        """Returns the URL of the provider's login page, and the random values with which `fetch_claims` checks the login.

        Raises ProviderFailed if the provider's discovery document cannot be read or is invalid.
        """
        attempt = LoginAttempt(*(secrets.token_urlsafe(32) for _ in range(3)))
        metadata = await self._discover()
        address = prepare_grant_uri(
            _endpoint_url(metadata, "authorization_endpoint"),
            self.client_id,
            "code",
            redirect_uri=self.redirect_uri,
            scope=self.scope,
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.verifier),
            code_challenge_method="S256",
        )
        return address, attempt

    async def fetch_claims(self, code: str, attempt: LoginAttempt) -> dict[str, Any]:
        """Exchanges the authorization code for tokens, and returns the claims about the person.

        The claims come from the ID token and, if the provider has one, from its user info endpoint. Raises ProviderFailed if
        the provider does not answer, or if one of its responses or the ID token is invalid.
        """
        metadata = await self._discover()
        async with self._new_http_client() as client:
            tokens = await self._exchange_code_for_tokens(client, metadata, code, attempt)
            keys = await _get_json(client, _endpoint_url(metadata, "jwks_uri"))
            claims = self._validate_id_token(tokens, keys, metadata, attempt)
            access_token = tokens.get("access_token")
            if "userinfo_endpoint" not in metadata or not isinstance(access_token, str):
                return claims
            bearer = {"Authorization": f"Bearer {access_token}"}
            more = await _get_json(client, _endpoint_url(metadata, "userinfo_endpoint"), headers=bearer)
        if more.get("sub") != claims["sub"]:
            raise ProviderFailed("userinfo_of_another")
        if claims.get("email", more.get("email")) != more.get("email"):
            # The user info's `email_verified` is not about the address in the ID token.
            more.pop("email_verified", None)
        # Claims of the ID token, which is signed, override those of the user info.
        return more | claims

    def _new_http_client(self) -> HttpClient:
        transport = AiohttpTransport(max_connections=1, keepalive_s=1.0)
        return HttpClient(transport, timeout=httpx.Timeout(_TIMEOUT_S), user_agent=f"callgate/{__version__}")

    async def _discover(self) -> dict[str, Any]:
        """Returns the provider's discovery document, which names its endpoints.

        Raises ProviderFailed if the document cannot be read or is invalid. The document is cached for a minute, and a failure
        for five seconds. Logins that need the document at the same time share one request to the provider.
        """
        if time.monotonic() > self._read_again_at:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_metadata())
            await asyncio.shield(self._reading)
        if self._failure is not None:
            raise ProviderFailed(self._failure)
        return self._metadata

    async def _read_metadata(self) -> None:
        """Requests the discovery document, and stores the document or, if this fails, the reason in this object."""
        try:
            async with self._new_http_client() as client:
                metadata = await _get_json(client, self.issuer.rstrip("/") + OPENID_DISCOVERY_PATH)
            if metadata.get("issuer") != self.issuer:
                raise ProviderFailed("discovery_of_another_issuer")
        except ProviderFailed as error:
            self._failure, self._read_again_at = str(error), time.monotonic() + _FAILURE_MAX_AGE_S
        else:
            self._metadata, self._failure, self._read_again_at = metadata, None, time.monotonic() + _METADATA_MAX_AGE_S

    async def _exchange_code_for_tokens(
        self, client: HttpClient, metadata: Mapping[str, Any], code: str, attempt: LoginAttempt
    ) -> dict[str, Any]:
        """Exchanges the authorization code for tokens, and returns the JSON object in the token endpoint's response.

        Raises ProviderFailed if the endpoint has no valid URL, refuses the exchange or does not answer.
        """
        address = _endpoint_url(metadata, "token_endpoint")
        body = prepare_token_request(
            "authorization_code", redirect_uri=self.redirect_uri, code=code, code_verifier=attempt.verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if "client_secret_basic" in _metadata_list(metadata, "token_endpoint_auth_methods_supported", "client_secret_basic"):
            # RFC 6749, section 2.3.1: id and secret are encoded as in a form.
            auth = ClientAuth(quote_plus(self.client_id), quote_plus(self.client_secret), "client_secret_basic")
        else:
            auth = ClientAuth(self.client_id, self.client_secret, "client_secret_post")
        address, headers, body = auth.prepare("POST", address, headers, body)
        return await _request_json_object(client, "POST", address, headers, body.encode())

    def _validate_id_token(
        self, tokens: Mapping[str, Any], keys: Any, metadata: Mapping[str, Any], attempt: LoginAttempt
    ) -> dict[str, Any]:
        """Validates the ID token in `tokens`, and returns its claims. `keys` is the provider's key set.

        Raises ProviderFailed if the token is missing or invalid.
        """
        supported = _metadata_list(metadata, "id_token_signing_alg_values_supported", "RS256")
        algorithms = [algorithm for algorithm in _SIGNATURE_ALGORITHMS if algorithm in supported]
        try:
            registry = JWSRegistry(algorithms=algorithms, strict_check_header=False)
            decoded = jwt.decode(str(tokens["id_token"]), KeySet.import_key_set(keys), registry=registry)
            options = {"iss": {"essential": True, "value": self.issuer}, "aud": {"essential": True, "value": self.client_id}}
            parameters = {"nonce": attempt.nonce, "client_id": self.client_id, "access_token": tokens.get("access_token")}
            claims = CodeIDToken(decoded.claims, decoded.header, options, parameters)
            claims.validate(leeway=_MAX_CLOCK_DIFFERENCE_S)
        except (JoseError, KeyError, ValueError, TypeError) as error:
            raise ProviderFailed(f"id_token_{type(error).__name__}") from None
        if not claims["sub"]:
            raise ProviderFailed("id_token_without_sub")
        return dict(claims)


def _endpoint_url(metadata: Mapping[str, Any], name: str) -> str:
    """Returns the URL of the endpoint `name` from the discovery document.

    Raises ProviderFailed if the document has no such URL, or if it is neither an https URL nor an http URL on this machine.
    """
    address = metadata.get(name)
    if not isinstance(address, str) or not is_https_or_loopback_url(address.partition("?")[0]):
        raise ProviderFailed(f"{name}_not_https")
    return address


def _metadata_list(metadata: Mapping[str, Any], name: str, default: str) -> list[Any]:
    """Returns the list with this name in the discovery document; `[default]` if it is missing.

    Raises ProviderFailed if the value is not a list.
    """
    found = metadata.get(name, [default])
    if not isinstance(found, list):
        raise ProviderFailed(f"{name}_not_a_list")
    return found


async def _get_json(client: HttpClient, address: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return await _request_json_object(client, "GET", address, {"Accept": "application/json", **(headers or {})}, None)


async def _request_json_object(
    client: HttpClient, method: str, address: str, headers: Mapping[str, str], body: bytes | None
) -> dict[str, Any]:
    """Sends a request and returns the JSON object in the response. Follows no redirect.

    Raises ProviderFailed if there is no response in time, if its status is not 200, or if its body is too long or not a JSON
    object.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            response = await client.send(method, address, headers=dict(headers), content=body)
            try:
                if response.status_code != httpx.codes.OK:
                    raise ProviderFailed(f"status_{response.status_code}")
                content = await read_response_body(response, limit=_MAX_RESPONSE_BYTES)
            except BodyTooLong:
                raise ProviderFailed("too_long") from None
            finally:
                await response.aclose()
        found = json.loads(content)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, TimeoutError) as error:
        raise ProviderFailed(f"no_answer_{type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise ProviderFailed("not_json") from None
    if not isinstance(found, dict):
        raise ProviderFailed("not_an_object")
    return found
