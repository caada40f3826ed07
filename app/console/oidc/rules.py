"""Decides what a person may do who has logged in with OpenID Connect: act for one tenant, act as an operator, or nothing.

The rules for this are settings. They match claims of the provider's ID token and user info.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from app.console_settings import OidcAccessRule
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope

_MAX_NAME_LENGTH = 200
_NO_KEY_ID = UUID(int=0)


def client_for_claims(rules: Sequence[OidcAccessRule], claims: Mapping[str, Any]) -> Caller | OperatorCaller | None:
    """Returns the client (of one tenant, or an operator) that the first matching rule describes; None if no rule matches."""
    rule = next((rule for rule in rules if _rule_matches_claims(rule, claims)), None)
    if rule is None:
        return None
    scopes = frozenset(map(Scope, rule.scopes))
    if rule.tenant is None:
        return OperatorCaller(None, _person_name(claims), scopes, "oidc")
    return Caller(rule.tenant, _NO_KEY_ID, _person_name(claims), False, scopes, kind="oidc")


def _rule_matches_claims(rule: OidcAccessRule, claims: Mapping[str, Any]) -> bool:
    """Returns whether the rule's claim has the rule's value, or is a list that contains it.

    A rule for the claim `email` matches only if `email_verified` is true.
    """
    claim = claims.get(rule.claim)
    if rule.claim == "email" and claims.get("email_verified") is not True:
        return False
    return rule.value in claim if isinstance(claim, list) else claim == rule.value


def _person_name(claims: Mapping[str, Any]) -> str:
    """Returns the person's name for the audit log: a verified e-mail address or, without one, the claim `sub`.

    Other claims, such as `name`, are not used, because people may be able to choose their values.
    """
    email = claims.get("email")
    name = email if isinstance(email, str) and claims.get("email_verified") is True else str(claims["sub"])
    return "".join(each if each.isprintable() else "?" for each in name)[:_MAX_NAME_LENGTH]
