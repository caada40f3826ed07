"""The OpenAPI document is part of the product: complete, exact and readable."""

import json
import re
from typing import Any

import httpx
import pytest

from app.calls.creation.validation import validate_call
from app.calls.examples import REQUESTS
from app.calls.schemas import CallRecord
from app.errors import all_errors
from app.http.problems import TYPE_PREFIX, Problem
from tests.support.gateway import Gateway


@pytest.fixture
async def document(gateway: Gateway) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        openapi: dict[str, Any] = (await http.get("/openapi.json")).json()
    return openapi


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_every_operation_explains_itself(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    for name, operation in _operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert re.fullmatch(r"[a-z_]+", operation["operationId"]), name
        assert set(operation["tags"]) <= tags.keys(), name


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references
    assert references <= document["components"]["schemas"].keys()


async def test_every_operation_with_a_key_documents_its_errors_with_examples(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        if "security" not in operation:
            continue
        assert {"401", "422", "500", "503"} <= operation["responses"].keys(), name
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            examples = response["content"]["application/problem+json"]["examples"]
            assert examples, (name, status)
            for example in examples.values():
                assert Problem.model_validate(example["value"]).status == int(status)


async def test_creation_documents_every_error_of_the_tree_that_it_can_answer(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/calls"]["post"]["responses"].values()
    documented = {
        example["value"]["type"].removeprefix(TYPE_PREFIX)
        for response in responses
        for example in response.get("content", {}).get("application/problem+json", {}).get("examples", {}).values()
    }
    elsewhere = {"not-found", "method-not-allowed", "call-not-found", "subresource-not-found", "callback-forged"}
    not_of_creations = {"not-acceptable", "wrong-call-state", "action-unknown", "delivery-not-found"}
    assert documented == all_errors().keys() - elsewhere - not_of_creations


async def test_every_member_of_the_request_is_described(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["CallRequest"]["properties"]
    assert len(properties) == 39
    assert all(member.get("description") for member in properties.values())


def test_every_example_request_is_valid() -> None:
    for example in REQUESTS.values():
        validate_call(example["value"])


async def test_example_record_has_the_shape_of_the_schema(document: dict[str, Any]) -> None:
    for example in document["components"]["examples"].values():
        aliased = {("from_" if name == "from" else name): value for name, value in example["value"].items()}
        CallRecord.model_validate(aliased)


def test_only_what_twilio_has_refused_is_safe_under_a_new_key() -> None:
    """Elsewhere a new key may ring a second phone: the first request's call may be live."""
    assert {slug for slug, error in all_errors().items() if error.safe and not error.same_key} == {"upstream-rejected"}
