"""Tests that `NewCall` and `CallState` have all columns of `Call` that they need. A missing field would be lost silently."""

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from sqlalchemy import DefaultClause

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.record_change import make_record_change
from app.calls.schemas import CallRecord
from app.calls.store import CallState
from app.compat.resource import RESOURCE_FIELDS
from app.twilio.schemas import CallResource

COLUMNS = Call.__mapper__.columns
NEW_CALL_TYPES = get_type_hints(NewCall)
INTENT_FIELDS = {each.name for each in fields(NewCall)}
# The INSERT statement sets them.
SET_BY_INSERT = {"execution", "pending_since"}


@pytest.mark.parametrize("kind", [NewCall, CallState])
def test_a_field_has_the_type_of_its_column(kind: type) -> None:
    hints = get_type_hints(kind)
    types = {name: type_in_table(name) for name in hints if name not in ("version", "now")}

    assert {name: hints[name] for name in types} == types


def type_in_table(name: str) -> Any:
    follows = getattr(Call, name)
    if isinstance(follows, property):
        return get_type_hints(follows.fget)["return"]
    return get_args(get_type_hints(Call)[name])[0]


def test_every_required_column_is_written_with_the_intent() -> None:
    required = {name for name, column in COLUMNS.items() if not column.nullable and column.server_default is None}

    assert required == required & (INTENT_FIELDS | SET_BY_INSERT)


def test_every_other_field_has_a_default_or_is_set_by_the_insert() -> None:
    unset = {name for name in NEW_CALL_TYPES if not hasattr(NewCall, name)} - INTENT_FIELDS

    assert unset == {"pending_since", "updated_at"}


@pytest.mark.parametrize("response_model", [CallRecord, CallResource])
def test_every_member_of_the_response_is_an_attribute_of_new_call(response_model: Any) -> None:
    assert set(response_model.model_fields) - {"raw"} <= NEW_CALL_TYPES.keys()


def test_twilios_paths_read_only_fields_of_new_call() -> None:
    assert set(RESOURCE_FIELDS) - {"from"} <= NEW_CALL_TYPES.keys()


def test_every_column_of_a_settlement_is_a_field() -> None:
    change = make_record_change("call.unknown", {}, {"execution": "unknown"})

    assert change.columns.keys() | change.times.keys() <= NEW_CALL_TYPES.keys()


def test_the_defaults_equal_those_of_the_table() -> None:
    defaults = {name: value for name in NEW_CALL_TYPES if (value := getattr(NewCall, name, None)) is not None}

    assert defaults.pop("execution") == "pending"
    assert (defaults.pop("deliveries_written"), server_default("deliveries_written")) == ([], "'{}'")
    assert {name: str(value) for name, value in defaults.items()} == {name: server_default(name) for name in defaults}


def server_default(name: str) -> str:
    default = COLUMNS[name].server_default
    assert isinstance(default, DefaultClause)
    return str(default.arg)
