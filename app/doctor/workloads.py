"""The checks of `callgate doctor` for workloads: the public keys that verify their tokens, and a token if one is given."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.doctor.results import CheckResult
from app.settings import Settings
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory
from app.workloads.key_set import JwkSetUnreadable, KeysById, parse_jwk_set
from app.workloads.key_sources import jwk_set_source
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import TokenRefused, TokenVerifier, unknown_key_refusal, unverified_claims

_KEY_SET_CHECK, _TOKEN_CHECK = "workload keys", "workload token"
_REMEDIES_BY_REASON: Mapping[str, str] = {
    "issuer": "set CALLGATE_WORKLOAD_ISSUER to exactly the token's issuer, if it is that of your cluster",
    "audience": "request the token with `audience: callgate`, or what CALLGATE_WORKLOAD_AUDIENCE names",
    "expired": "read the token again for each request: the kubelet renews its file",
    "lifetime": "set `expirationSeconds` to 86400 or less; tokens of Secrets are not accepted",
    "not_yet_valid": "synchronise the clocks with NTP",
    "unknown_key": "check that CALLGATE_WORKLOAD_KEYS is the key set of the cluster that issued the token",
}
_DEFAULT_REMEDY = "mount a projected token: docs/administration.md, Workload identities"


@dataclass(frozen=True, slots=True)
class WorkloadChecks:
    settings: Settings
    directory: TenantDirectory

    async def run(self, token: str | None) -> AsyncIterator[CheckResult]:
        """Yields the results of the checks: none if `token` is None and CALLGATE_WORKLOAD_ISSUER is not set.

        Raises DatabaseUnavailable if the workload of the token cannot be read from the database.
        """
        issuer = self.settings.workload_issuer
        if issuer is None:
            if token is not None:
                yield _describe_token(token)
                do = "set CALLGATE_WORKLOAD_ISSUER to the token's issuer, if it is that of your cluster"
                yield CheckResult(_TOKEN_CHECK, "wrong", "no service account tokens are accepted", do)
            return
        source = jwk_set_source(self.settings, issuer=issuer)
        keys: KeysById = {}
        try:
            keys = parse_jwk_set(await source.read())
        except JwkSetUnreadable as error:
            do = "check CALLGATE_WORKLOAD_KEYS and the files that belong to it: docs/administration.md"
            yield CheckResult(_KEY_SET_CHECK, "wrong", f"{source.location} cannot be used: {error.reason}", do)
        else:
            yield CheckResult(_KEY_SET_CHECK, "ok", f"{len(keys)} of the issuer {issuer} from {source.location}")
        if token is not None:
            yield _describe_token(token)
            yield await self._check_token(token, keys, TokenVerifier(issuer, self.settings.workload_audience))

    async def _check_token(self, token: str, keys: KeysById, rules: TokenVerifier) -> CheckResult:
        try:
            account = _validate_token(token, keys, rules)
        except TokenRefused as refused:
            if refused.reason == "unknown_key" and not keys:
                return CheckResult(_TOKEN_CHECK, "not checked", "there is no key set to check it with")
            return CheckResult(_TOKEN_CHECK, "wrong", refused.detail, _REMEDIES_BY_REASON.get(refused.reason, _DEFAULT_REMEDY))
        caller = await self.directory.find_client_of_workload(account)
        if caller is None:
            names = f"--namespace {account.namespace} --service-account {account.name}"
            do = f"callgate workloads create TENANT {names}"
            return CheckResult(_TOKEN_CHECK, "wrong", "it is valid, but its service account is not a workload", do)
        acts_for = f"tenant {caller.tenant_id}" if isinstance(caller, Caller) else "operators"
        return CheckResult(_TOKEN_CHECK, "ok", f"it is valid, and acts for {acts_for} with {', '.join(sorted(caller.scopes))}")


def _validate_token(token: str, keys: KeysById, rules: TokenVerifier) -> ServiceAccount:
    """Returns the service account of the token. Raises TokenRefused if the token is invalid.

    The token must be signed with one of `keys`, and meet `rules`: issuer and audience.
    """
    key = keys.get(rules.read_key_id(token))
    if key is None:
        rules.check_claims(token)
        raise unknown_key_refusal()
    return rules.validate(token, key).service_account


def _describe_token(token: str) -> CheckResult:
    """Returns a result that shows the token's unverified claims, such as the issuer, but never the token itself."""
    claims = unverified_claims(token)
    if not claims:
        return CheckResult(_TOKEN_CHECK, "wrong", "it is not a readable JSON Web Token", _DEFAULT_REMEDY)
    private = claims.get("kubernetes.io")
    names = private if isinstance(private, dict) else {}
    account = names.get("serviceaccount")
    shown = {
        "issuer": claims.get("iss"),
        "audience": claims.get("aud"),
        "namespace": names.get("namespace"),
        "service account": account.get("name") if isinstance(account, dict) else None,
    }
    described = [f"{name} {_claim_text(value)}" for name, value in shown.items()]
    return CheckResult(_TOKEN_CHECK, "ok", ", ".join([*described, f"lifetime {_lifetime_text(claims)}"]))


def _claim_text(value: Any) -> str:
    """Returns the claim's value as JSON, so that a terminal shows control characters instead of interpreting them."""
    return "none" if value is None else json.dumps(value)


def _lifetime_text(claims: Mapping[str, Any]) -> str:
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    if not isinstance(issued_at, int) or not isinstance(expires_at, int):
        return "unknown"
    try:
        return str(timedelta(seconds=expires_at - issued_at))
    except OverflowError:
        return "unknown"
