"""Tests the forms of tenants: an error is shown at its field, and a secret that was typed is not shown again."""

from typing import Any

import pytest

from app.admin.access import parse_body
from app.admin.accounts.schemas import NewAccount
from app.admin.keys.schemas import NewKey
from app.admin.tenants.schemas import NewTenant
from app.console.tenants.forms import (
    ACCOUNT_FIELDS,
    KEY_FIELDS,
    TENANT_FIELDS,
    filled_fields,
    idempotency_key_of,
    new_api_key_body,
    refused_form,
)
from app.errors import CallgateError, InvalidRequest, ScopeRequired, TenantNotFound
from app.tenants.errors import InvalidValue, NoSuchResource, ResourceExists
from app.tenants.scopes import Scope

SECRET = "pl4nted secret"
SID = "AC" + "a" * 32


class Typed:
    """A form that a person has filled in with these values."""

    def __init__(self, **values: str | list[str]) -> None:
        self._values = values

    def first_value(self, name: str) -> str:
        return "".join(self.all_values(name)[:1])

    def all_values(self, name: str) -> list[str]:
        value = self._values.get(name, [])
        return [value] if isinstance(value, str) else value


def error_of(model: Any, body: dict[str, Any]) -> CallgateError:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(model, body)
    return caught.value


def test_a_fault_is_at_its_field_and_what_was_typed_is_kept() -> None:
    form = Typed(id="Support!", name="The desk")
    state = refused_form(form, TENANT_FIELDS, error_of(NewTenant, filled_fields(form, TENANT_FIELDS)))
    assert state.errors.keys() == {"id"}
    assert state.errors["id"].startswith("Use lower-case letters")
    assert (state.value("id"), state.value("name"), state.status, state.form_error) == ("Support!", "The desk", 422, None)


@pytest.mark.parametrize(
    ("typed", "faulty"),
    [
        ({"account_sid": SID, "auth_token": SECRET}, {"auth_token"}),
        ({"account_sid": "AC1", "key_sid": "SK1", "secret": SECRET}, {"account_sid", "key_sid", "secret"}),
        ({"account_sid": SID}, set()),
        ({"account_sid": SID, "auth_token": "t", "key_sid": "SK" + "a" * 32}, set()),
    ],
)
def test_secrets_are_not_shown_again(typed: dict[str, str], faulty: set[str]) -> None:
    form = Typed(**typed)
    state = refused_form(form, ACCOUNT_FIELDS, error_of(NewAccount, filled_fields(form, ACCOUNT_FIELDS)))
    assert state.errors.keys() == faulty
    assert SECRET not in repr(state)
    assert (state.form_error is None) == bool(faulty)
    assert faulty or state.form_error == "Give either the auth token, or the SID and the secret of an API key."


@pytest.mark.parametrize(
    ("error", "status", "fault"),
    [
        (ResourceExists("The tenant exists with another name."), 409, "The tenant exists with another name."),
        (ScopeRequired.of(Scope.CALL), 403, ScopeRequired.of(Scope.CALL).detail),
        (InvalidValue("/base_url", "invalid_url", "it is no URL"), 422, None),
    ],
)
def test_other_refusals_are_shown_at_the_form(error: Any, status: int, fault: str | None) -> None:
    state = refused_form(Typed(account_sid=SID), ACCOUNT_FIELDS, error)
    assert (state.status, state.form_error) == (status, fault)
    assert state.value("account_sid") == SID


@pytest.mark.parametrize("error", [TenantNotFound(), NoSuchResource("tenant", "there is none")])
def test_an_error_that_is_not_about_the_form_is_raised(error: Exception) -> None:
    with pytest.raises(TenantNotFound):
        refused_form(Typed(), TENANT_FIELDS, error)  # type: ignore[arg-type]


def test_a_key_has_the_scopes_and_the_expiry_of_its_form() -> None:
    form = Typed(name="dialler", scopes=["call"], expires_at="2099-01-31T12:00", format="callgate")
    new = parse_body(NewKey, new_api_key_body(form))
    assert (new.name, new.scopes, new.format) == ("dialler", [Scope.CALL], "callgate")
    assert new.expires_at
    assert new.expires_at.isoformat() == "2099-01-31T12:00:00+00:00"
    assert parse_body(NewKey, new_api_key_body(Typed(scopes=["read"]))).expires_at is None


@pytest.mark.parametrize(
    ("typed", "faulty"),
    [
        ({"scopes": ["call"], "expires_at": "2020-01-01T00:00"}, "expires_at"),
        ({"scopes": ["call"], "expires_at": "soon"}, "expires_at"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
    ],
)
def test_a_key_that_cannot_be_made(typed: dict[str, Any], faulty: str) -> None:
    form = Typed(**typed)
    with pytest.raises(InvalidRequest) as caught:
        parse_body(NewKey, new_api_key_body(form))
    assert refused_form(form, KEY_FIELDS, caught.value).errors.keys() == {faulty}


def test_a_form_for_a_key_has_an_id_of_its_own() -> None:
    with pytest.raises(InvalidRequest):
        idempotency_key_of(Typed(once="x"))
    assert idempotency_key_of(Typed(once="6F1ED002-AB55-4585-8590-14EBF0951522")) == "6f1ed002-ab55-4585-8590-14ebf0951522"
