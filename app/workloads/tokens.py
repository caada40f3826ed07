"""Validates Kubernetes service account tokens: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/

The signature is checked before the claims if the token's key is known. If the key is unknown, the claims are checked before the
key is requested from the issuer: a token with wrong claims causes no request.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import jwt
from jwt import PyJWK
from jwt.types import Options

from app.workloads.service_accounts import ServiceAccount, is_namespace_name, is_service_account_name

JWT_ALGORITHMS: Final = ("RS256", "ES256", "ES384", "ES512")
"""The algorithms with which Kubernetes signs. Symmetric algorithms and `none` are refused, even if a key set names them."""
MAX_CLOCK_SKEW_S: Final = 30
"""By how many seconds the issuer's clock may differ from this machine's clock."""
MAX_TOKEN_LIFETIME_S: Final = 24 * 3600
MAX_TOKEN_LENGTH: Final = 8192
"""The maximum length of a token, in characters. Tokens that Kubernetes mounts into a pod have 900 to 3,000."""

RefusalReason = Literal[
    "not_configured", "malformed", "too_long", "algorithm", "unknown_key", "signature", "issuer", "audience", "expired",
    "not_yet_valid", "missing_claim", "lifetime", "no_service_account", "no_workload",
]  # fmt: skip
REFUSAL_REASONS: Final[tuple[RefusalReason, ...]] = get_args(RefusalReason)

_REASONS_BY_PYJWT_ERROR: tuple[tuple[type[jwt.InvalidTokenError], RefusalReason], ...] = (
    (jwt.InvalidSignatureError, "signature"),
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not_yet_valid"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidAlgorithmError, "algorithm"),
)
_PYJWT_OPTIONS: Options = {
    "require": ["iss", "aud", "sub", "iat", "exp"],
    "verify_exp": True,
    "verify_nbf": True,
    "verify_iat": True,
    "verify_aud": True,
    "verify_iss": True,
    "verify_sub": True,
    "verify_jti": True,
    "enforce_minimum_key_length": True,
}
_SUBJECT_PREFIX = ("system", "serviceaccount")


class TokenRefused(Exception):
    """A service account token is not accepted. `detail` says which check failed, and contains no part of the token."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class ValidToken:
    service_account: ServiceAccount
    issued_at: float
    expires_at: float
    """When the token expires, in Unix time. MAX_CLOCK_SKEW_S is not included."""


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Checks tokens, which must be from `issuer` and for `audience`."""

    issuer: str
    audience: str

    def read_key_id(self, token: str) -> str:
        """Returns the key id (`kid`) in the token's header, which is not verified yet.

        Raises TokenRefused if the token is too long or unreadable, has no key id, or names an algorithm that is not accepted.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenRefused("too_long", f"The service account token is longer than {MAX_TOKEN_LENGTH} characters.")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _malformed_refusal() from None
        if header.get("alg") not in JWT_ALGORITHMS:
            raise _wrong_algorithm_refusal()
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise unknown_key_refusal()
        return key_id

    def validate(self, token: str, key: PyJWK) -> ValidToken:
        """Returns the token's service account, and when the token was issued and expires.

        Raises TokenRefused if the signature is wrong, or if a claim is missing or wrong.
        """
        return self._decode_and_validate(token, key, algorithms=JWT_ALGORITHMS)

    def check_claims(self, token: str) -> None:
        """Raises TokenRefused if a claim is missing or wrong. Does not check the signature: the claims may be forged."""
        self._decode_and_validate(token, None, algorithms=None)

    def _decode_and_validate(self, token: str, key: PyJWK | None, *, algorithms: Sequence[str] | None) -> ValidToken:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                "" if key is None else key,
                algorithms=algorithms,
                audience=self.audience,
                issuer=self.issuer,
                leeway=MAX_CLOCK_SKEW_S,
                options={**_PYJWT_OPTIONS, "verify_signature": key is not None},
            )
        except jwt.InvalidTokenError as error:
            raise self._refusal_for_pyjwt_error(error) from None
        return self._to_valid_token(claims)

    def _to_valid_token(self, claims: Mapping[str, Any]) -> ValidToken:
        issued_at, expires_at = claims["iat"], claims["exp"]
        # PyJWT also reads times from text.
        if not all(type(moment) in (int, float) for moment in (issued_at, expires_at)):
            raise _malformed_refusal()
        # Not `expires_at - issued_at`, which fails for a float and an integer that is too large for a float.
        if expires_at > issued_at + MAX_TOKEN_LIFETIME_S:
            hours = MAX_TOKEN_LIFETIME_S // 3600
            raise TokenRefused(
                "lifetime",
                f"The service account token is valid for more than {hours} hours: request one with a shorter "
                "`expirationSeconds`.",
            )
        return ValidToken(_parse_service_account(claims), issued_at, expires_at)

    def _refusal_for_pyjwt_error(self, error: jwt.InvalidTokenError) -> TokenRefused:
        if isinstance(error, jwt.MissingRequiredClaimError):
            return TokenRefused("missing_claim", f"The service account token has no claim `{error.claim}`.")
        reason = next((reason for kind, reason in _REASONS_BY_PYJWT_ERROR if isinstance(error, kind)), None)
        match reason:
            case None:
                return _malformed_refusal()
            case "algorithm":
                return _wrong_algorithm_refusal()
            case "audience":
                return TokenRefused(reason, f"The service account token is not for the audience `{self.audience}`.")
            case _:
                return TokenRefused(reason, _DETAILS_BY_REASON[reason])


_DETAILS_BY_REASON: Mapping[str, str] = {
    "signature": "The signature of the service account token is wrong.",
    "expired": "The service account token has expired.",
    "not_yet_valid": "The service account token is not valid yet: its `iat` or `nbf` is in the future.",
    "issuer": "The service account token has another issuer than the one that Callgate accepts.",
}


def unknown_key_refusal() -> TokenRefused:
    return TokenRefused("unknown_key", "The service account token names no key of the issuer's key set (`kid`).")


def _malformed_refusal() -> TokenRefused:
    return TokenRefused("malformed", "The service account token is not a readable JSON Web Token.")


def _wrong_algorithm_refusal() -> TokenRefused:
    return TokenRefused(
        "algorithm",
        f"The service account token is not signed with the algorithm of its key; {', '.join(JWT_ALGORITHMS)} are accepted.",
    )


def _parse_service_account(claims: Mapping[str, Any]) -> ServiceAccount:
    """Returns the service account that the claims `sub` and `kubernetes.io` name. Raises TokenRefused unless they agree."""
    private = claims.get("kubernetes.io")
    account = private.get("serviceaccount") if isinstance(private, dict) else None
    namespace = private.get("namespace") if isinstance(private, dict) else None
    name = account.get("name") if isinstance(account, dict) else None
    is_named = is_namespace_name(namespace) and is_service_account_name(name)
    if not is_named or tuple(claims["sub"].split(":")) != (*_SUBJECT_PREFIX, namespace, name):
        raise TokenRefused(
            "no_service_account",
            "The token is not that of a service account: `sub` and the claim `kubernetes.io` must name the same namespace and "
            "service account.",
        )
    return ServiceAccount(claims["iss"], str(namespace), str(name))


def unverified_claims(token: str) -> Mapping[str, Any]:
    """Returns the claims of a token without any check; an empty mapping if the token is not a readable JSON Web Token."""
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return {}
    return claims


def seconds_until_refused(token: ValidToken) -> float:
    """Returns the seconds until the token is refused; negative if it is refused already.

    A token is refused from MAX_CLOCK_SKEW_S seconds after it expires.
    """
    return token.expires_at + MAX_CLOCK_SKEW_S - time.time()
