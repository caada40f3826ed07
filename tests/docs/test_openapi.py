"""The OpenAPI document is part of the product: complete, exact and readable."""

import inspect
import json
import re
from typing import Any

import pytest
from twilio.rest.api.v2010.account.call import CallList

from app.calls.creation.validation import validate_call
from app.calls.examples import REQUEST_EXAMPLES
from app.calls.schemas import CallRecord
from app.errors import error_classes_by_slug
from app.http.problems import PROBLEM_TYPE_PREFIX, Problem
from app.subresources.examples import EXAMPLE_BODIES
from app.subresources.members import convert_to_twilio_parameters
from app.subresources.openapi import operation_id_of
from app.twilio.subresources import SUBRESOURCE_OPERATIONS, SubresourceOperation
from tests.support.clients import http_client
from tests.support.gateway import Gateway
from tests.support.upstream import created, running_upstream

_HEADERS = ("X-Request-Id", "Location", "Idempotent-Replayed", "Retry-After", "WWW-Authenticate")


@pytest.fixture
async def document(gateway: Gateway) -> dict[str, Any]:
    async with http_client(base_url=gateway.url) as http:
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
        if not operation["security"]:
            continue
        assert {"401", "422", "500", "503"} <= operation["responses"].keys(), name
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            examples = response["content"]["application/problem+json"]["examples"]
            assert examples, (name, status)
            for example in examples.values():
                assert Problem.model_validate(example["value"]).status == int(status)


async def test_every_operation_with_a_body_documents_the_errors_of_bodies(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        if "requestBody" in operation:
            assert {"408", "413", "415"} <= operation["responses"].keys(), name


async def test_a_change_of_a_call_documents_what_only_it_can_answer(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/calls/{id_or_sid}"]["patch"]["responses"]
    for status, slug in (("409", "no-usable-credentials"), ("503", "shutting-down")):
        assert slug in responses[status]["content"]["application/problem+json"]["examples"]


async def test_every_operation_with_a_key_names_its_scope(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        assert ("x-scope" in operation) is bool(operation["security"]), name
        if scope := operation.get("x-scope"):
            example = operation["responses"]["403"]["content"]["application/problem+json"]["examples"]["scope-required"]
            assert example["value"]["scope"] == scope, name
            assert f"with the scope `{scope}`" in operation["description"], name


async def test_creation_documents_every_error_of_the_tree_that_it_can_answer(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/calls"]["post"]["responses"].values()
    documented = {
        example["value"]["type"].removeprefix(PROBLEM_TYPE_PREFIX)
        for response in responses
        for example in response.get("content", {}).get("application/problem+json", {}).get("examples", {}).values()
    }
    elsewhere = {"not-found", "method-not-allowed", "call-not-found", "subresource-not-found", "callback-forged"}
    elsewhere |= {"operator-key-required", "origin-refused"}
    not_of_creations = {"not-acceptable", "wrong-call-state", "action-unknown", "delivery-not-found", "queue-not-found"}
    of_the_admin_api = {"tenant-not-found", "resource-not-found", "already-exists", "precondition-failed"}
    before_the_path_is_known = {"malformed-request", "head-too-large", "too-many-connections"}
    assert (
        documented
        == error_classes_by_slug().keys() - elsewhere - not_of_creations - of_the_admin_api - before_the_path_is_known
    )


OWN_MEMBERS = {"account_sid", "sip_credential", "not_before", "ring_by", "priority", "queue", "time_zone", "redial"}


async def test_every_member_of_the_request_is_described(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["CallRequest"]["properties"]
    parameters = inspect.signature(CallList.create).parameters.keys() - {"self"}
    assert properties.keys() == {name.rstrip("_") for name in parameters} | OWN_MEMBERS
    assert all(member.get("description") for member in properties.values())


def test_every_example_request_is_valid() -> None:
    for example in REQUEST_EXAMPLES.values():
        validate_call(example["value"])


@pytest.mark.parametrize("operation", [each for each in SUBRESOURCE_OPERATIONS if each.method == "POST"], ids=operation_id_of)
def test_every_example_body_of_a_subresource_is_valid(operation: SubresourceOperation) -> None:
    assert convert_to_twilio_parameters(operation, EXAMPLE_BODIES[operation.subresource.segment, operation.action])


async def test_every_body_has_an_example_and_every_answer_a_schema(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        if "requestBody" in operation:
            assert all(body["examples"] for body in operation["requestBody"]["content"].values()), name
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                schemas = content["schema"].get("anyOf", [content["schema"]])
                assert all("$ref" in schema for schema in schemas) or media_type in (
                    "text/plain",
                    "audio/mpeg",
                    "audio/x-wav",
                ), (name, status)


async def test_what_may_be_left_out_has_no_default(document: dict[str, Any]) -> None:
    """Checks that no member has a default. Client generators assume that a member with a default is always present."""
    for name, schema in document["components"]["schemas"].items():
        for member, described in schema.get("properties", {}).items():
            assert "default" not in described, (name, member)
    assert document["components"]["schemas"]["CallRequest"]["required"] == ["to", "from"]


async def test_headers_of_answers_are_documented_and_sent(gateway: Gateway, document: dict[str, Any]) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answers = [await tenant.create("order-1"), await tenant.create("order-1")]
        tenant.http.headers["Authorization"] = "Bearer cgk_nobody"
        answers.append(await tenant.create())
    assert [answer.status_code for answer in answers] == [201, 200, 401]
    for answer in answers:
        documented = document["paths"]["/v1/calls"]["post"]["responses"][str(answer.status_code)]["headers"]
        assert documented.keys() == {name for name in _HEADERS if name in answer.headers}


async def test_a_429_is_only_about_wrong_keys(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        assert "429" not in operation["description"], name
        assert ("429" in operation["responses"]) is bool(operation["security"]), name
        if response := operation["responses"].get("429"):
            examples = response["content"]["application/problem+json"]["examples"]
            assert list(examples) == ["too-many-attempts"], name
            assert "Retry-After" in response["headers"], name


async def test_the_first_cursor_fits_its_pattern(gateway: Gateway, document: dict[str, Any]) -> None:
    async with running_upstream(created(), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert [(await tenant.create()).status_code for _ in range(2)] == [201, 201]
    cursor = (await tenant.http.get("/v1/calls?limit=1")).json()["next_cursor"]
    (described,) = (each for each in document["paths"]["/v1/calls"]["get"]["parameters"] if each["name"] == "cursor")
    assert re.fullmatch(described["schema"]["pattern"], cursor)


async def test_example_record_has_the_shape_of_the_schema(document: dict[str, Any]) -> None:
    for name in ("started", "unknown"):
        example = document["components"]["examples"][name]["value"]
        CallRecord.model_validate({("from_" if name == "from" else name): value for name, value in example.items()})


def test_only_what_is_known_never_to_ring_is_safe_under_a_new_key() -> None:
    """Checks which errors permit a new key. After any other error the first call may ring, and a new key may ring again."""
    never_rings = {"upstream-rejected", "ring-by-passed", "canceled-before-dial"}
    assert {
        slug for slug, error in error_classes_by_slug().items() if error.is_safe_to_repeat and not error.repeat_with_same_key
    } == never_rings
