"""Finds the service account of a token, and remembers valid tokens so that each signature is checked once."""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.observability.metrics import WorkloadMetrics
from app.settings import Settings
from app.workloads.key_set import JwkSet, JwkSetSource, JwkSetState
from app.workloads.key_sources import jwk_set_source
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import REFUSAL_REASONS, TokenVerifier, ValidToken, seconds_until_refused, unknown_key_refusal

_MAX_CACHED_TOKENS = 10_000


class WorkloadTokenValidator:
    """Validates the service account tokens of one issuer, and caches valid ones.

    Use a validator only inside `async with refreshing_keys_in_background()`.
    """

    def __init__(self, rules: TokenVerifier, source: JwkSetSource, metrics: WorkloadMetrics) -> None:
        self._rules = rules
        for reason in REFUSAL_REASONS:  # series start at 0
            metrics.refused.labels(reason)
        self._valid_tokens: OrderedDict[bytes, ValidToken] = OrderedDict()
        # Tokens that a removed key signed are no longer valid. Which ones is not stored, so all tokens are forgotten.
        self._keys = JwkSet(source, metrics=metrics, on_removed=self._valid_tokens.clear)

    @property
    def issuer(self) -> str:
        return self._rules.issuer

    @property
    def key_set_state(self) -> JwkSetState:
        return self._keys.state

    @asynccontextmanager
    async def refreshing_keys_in_background(self) -> AsyncIterator[None]:
        """Reads the key set immediately and then at intervals, in a background task, until the block ends."""
        async with self._keys.refreshing_in_background():
            yield

    def cached_service_account(self, token: str) -> ServiceAccount | None:
        """Returns the service account of a cached token, which was validated before and has not expired; otherwise None."""
        known = self._valid_tokens.get(_digest_of(token))
        return known.service_account if known and seconds_until_refused(known) > 0 else None

    async def validate(self, token: str) -> ServiceAccount:
        """Validates the token, caches it, and returns its service account. Raises TokenRefused if the token is not valid.

        Raises JwkSetUnavailable if the key of the token is unknown and the key set cannot be read.
        """
        valid = self._valid_tokens[_digest_of(token)] = await self._validate(token)
        if len(self._valid_tokens) > _MAX_CACHED_TOKENS:
            self._valid_tokens.popitem(last=False)
        return valid.service_account

    async def _validate(self, token: str) -> ValidToken:
        key_id = self._rules.read_key_id(token)
        if not self._keys.has(key_id):
            self._rules.check_claims(token)
        try:
            key = await self._keys.find(key_id)
        except KeyError:
            raise unknown_key_refusal() from None
        return self._rules.validate(token, key)


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@asynccontextmanager
async def open_workload_token_validator(
    settings: Settings, metrics: WorkloadMetrics
) -> AsyncIterator[WorkloadTokenValidator | None]:
    """Yields a validator for the configured issuer, audience and key set; None if CALLGATE_WORKLOAD_ISSUER is not set.

    Until the block ends, a background task reads the validator's key set at intervals.
    """
    if settings.workload_issuer is None:
        yield None
        return
    rules = TokenVerifier(settings.workload_issuer, settings.workload_audience)
    tokens = WorkloadTokenValidator(rules, jwk_set_source(settings, issuer=settings.workload_issuer), metrics)
    async with tokens.refreshing_keys_in_background():
        yield tokens
