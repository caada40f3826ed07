"""Finishes the OpenAPI document that FastAPI generates, for linters, generators of clients and readers."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_NULL = {"type": "null"}
_TEXT = {"type": "string"}
HEADERS: dict[str, Any] = {
    "RequestId": {
        "description": "Finds the request in the log: the caller's own `X-Request-Id`, or a new one.",
        "schema": _TEXT,
    },
    "Location": {"description": "The path of the record.", "schema": {"type": "string", "format": "uri-reference"}},
    "IdempotentReplayed": {
        "description": "`true`: the record of an earlier request with this Idempotency-Key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the request is repeated; also `retry.after_s`.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWWAuthenticate": {"description": "The scheme that is expected: `Bearer`.", "schema": _TEXT},
}
_NAMES = {
    "X-Request-Id": "RequestId",
    "Location": "Location",
    "Idempotent-Replayed": "IdempotentReplayed",
    "Retry-After": "RetryAfter",
    "WWW-Authenticate": "WWWAuthenticate",
}


def headers(*names: str) -> dict[str, Any]:
    """The `headers` of a response, as references to `HEADERS`."""
    return {name: {"$ref": f"#/components/headers/{_NAMES[name]}"} for name in names}


def json_answer(*examples: str) -> dict[str, Any]:
    """The `content` of a response with these examples of the components: FastAPI drops the nulls of examples in a route."""
    return {"application/json": {"examples": {name: {"$ref": f"#/components/examples/{name}"} for name in examples}}}


def json_body(schema: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `openapi_extra` of a route that parses its JSON body itself; `schema` names a component."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def complete(document: dict[str, Any], *, schemas: Mapping[str, Schema], examples: Mapping[str, Any]) -> None:
    """Adds the components that no route declares as its own, and what every operation and response has."""
    components = document["components"]
    components["schemas"] |= schemas
    components["examples"] = dict(examples)
    components["headers"] = HEADERS
    components["schemas"] = {name: simplified(schema) for name, schema in components["schemas"].items()}
    for operation in _operations(document):
        operation.setdefault("security", [])
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _parameter(parameter["schema"])
        for response in operation["responses"].values():
            response["headers"] = response.get("headers", {}) | headers("X-Request-Id")
            for content in response.get("content", {}).values():
                if "schema" in content:
                    content["schema"] = simplified(content["schema"])


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def _parameter(schema: Schema) -> Schema:
    """A URL or a header has no null: a parameter that is not given is left out. Its description stands beside the schema."""
    told = {key: value for key, value in simplified(without_null(schema)).items() if key != "description"}
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    return told | default


def simplified(schema: Schema) -> Schema:
    """Without titles and defaults, and with `type: [X, "null"]` for `anyOf: [X, null]`.

    Generators take a member with a default for one that is always there, and name the parts of a union after their numbers.
    """
    told = {key: _simplified(key, value) for key, value in schema.items() if key not in ("title", "default")}
    kinds = told.get("anyOf", ())
    others = [kind for kind in kinds if kind != _NULL]
    if len(others) == 1 < len(kinds) and isinstance(others[0].get("type"), str) and "enum" not in others[0]:
        del told["anyOf"]
        told = others[0] | told | {"type": [others[0]["type"], "null"]}
    return told


def _simplified(key: str, value: Any) -> Any:
    if key in ("properties", "$defs"):
        return {name: simplified(schema) for name, schema in value.items()}
    if key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return [simplified(schema) for schema in value]
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return simplified(value)
    return value


def without_null(schema: Schema) -> Schema:
    """`anyOf: [X, null]` as X."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != _NULL]
    if not kinds:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})


def nulls_left_out(schema: Schema) -> None:
    """`json_schema_extra` of a model that is written without its nulls: a member that may be left out is never null."""
    required = schema.get("required", ())
    for name, member in schema["properties"].items():
        if name not in required:
            schema["properties"][name] = without_null(member)
