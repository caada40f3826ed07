"""Completes the OpenAPI document that FastAPI generates, for readers, linters and client generators."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_NULL_SCHEMA = {"type": "null"}
_STRING_SCHEMA = {"type": "string"}
HEADER_COMPONENTS: dict[str, Any] = {
    "RequestId": {
        "description": "Identifies the request in the log: the client's `X-Request-Id`, or a new id.",
        "schema": _STRING_SCHEMA,
    },
    "Location": {"description": "The path of the record.", "schema": {"type": "string", "format": "uri-reference"}},
    "IdempotentReplayed": {
        "description": "`true`: this is the record of an earlier request with this Idempotency-Key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {"description": "The version of the record, for `If-Match`.", "schema": _STRING_SCHEMA},
    "RetryAfter": {
        "description": "Seconds to wait before the request is repeated; also `retry.after_s`.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWWAuthenticate": {"description": "The expected scheme: `Bearer`.", "schema": _STRING_SCHEMA},
}
_COMPONENTS_BY_HEADER = {
    "X-Request-Id": "RequestId",
    "Location": "Location",
    "Idempotent-Replayed": "IdempotentReplayed",
    "ETag": "ETag",
    "Retry-After": "RetryAfter",
    "WWW-Authenticate": "WWWAuthenticate",
}


def header_references(*names: str) -> dict[str, Any]:
    """Returns the `headers` of an OpenAPI response: for each header name, a reference to the component that describes it."""
    return {name: {"$ref": f"#/components/headers/{_COMPONENTS_BY_HEADER[name]}"} for name in names}


def json_example_references(*examples: str) -> dict[str, Any]:
    """Returns the `content` of an OpenAPI response. Its examples are references to the example components with these names.

    The examples are components because FastAPI removes nulls from the examples of a route.
    """
    return {"application/json": {"examples": {name: {"$ref": f"#/components/examples/{name}"} for name in examples}}}


def json_request_body(schema: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `openapi_extra` of a route that parses its JSON body itself.

    `schema` is the name of a schema component. `examples` are OpenAPI's examples of the body, by name.
    """
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def complete_document(document: dict[str, Any], *, schemas: Mapping[str, Schema], examples: Mapping[str, Any]) -> None:
    """Changes the document in place: simplifies all schemas, and adds what FastAPI leaves out.

    These are the components that no route declares, the header X-Request-Id of every response, and an empty `security` for
    operations without one.
    """
    components = document["components"]
    components["schemas"] |= schemas
    components["examples"] = dict(examples)
    components["headers"] = HEADER_COMPONENTS
    components["schemas"] = {name: simplify_schema(schema) for name, schema in components["schemas"].items()}
    for operation in _operations(document):
        operation.setdefault("security", [])
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _parameter_schema(parameter["schema"])
        for response in operation["responses"].values():
            response["headers"] = response.get("headers", {}) | header_references("X-Request-Id")
            for content in response.get("content", {}).values():
                if "schema" in content:
                    content["schema"] = simplify_schema(content["schema"])


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def _parameter_schema(schema: Schema) -> Schema:
    """Returns the simplified schema of a parameter, without description and type null. Keeps a default that is not null.

    A URL or header cannot contain null.
    """
    simple = {key: value for key, value in simplify_schema(without_null(schema)).items() if key != "description"}
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    return simple | default


def simplify_schema(schema: Schema) -> Schema:
    """Returns the schema without titles and defaults, and with `anyOf: [X, null]` written as `type: [X, "null"]`.

    Without these changes, client generators treat a member with a default as always present, and create a numbered type for
    each union.
    """
    simple = {key: _simplify_schema_member(key, value) for key, value in schema.items() if key not in ("title", "default")}
    types = simple.get("anyOf", ())
    others = [type_ for type_ in types if type_ != _NULL_SCHEMA]
    if len(others) == 1 < len(types) and isinstance(others[0].get("type"), str) and "enum" not in others[0]:
        del simple["anyOf"]
        simple = others[0] | simple | {"type": [others[0]["type"], "null"]}
    return simple


def _simplify_schema_member(key: str, value: Any) -> Any:
    if key in ("properties", "$defs"):
        return {name: simplify_schema(schema) for name, schema in value.items()}
    if key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return [simplify_schema(schema) for schema in value]
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return simplify_schema(value)
    return value


def without_null(schema: Schema) -> Schema:
    """Returns the schema with `null` removed from `anyOf`. If one type X remains, X replaces the `anyOf`."""
    types = [type_ for type_ in schema.get("anyOf", ()) if type_ != _NULL_SCHEMA]
    if not types:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return rest | (types[0] if len(types) == 1 else {"anyOf": types})


def drop_null_types(schema: Schema) -> None:
    """Removes null from the types of optional members, in place.

    Used as `json_schema_extra` of models whose JSON leaves out members that are null.
    """
    required = schema.get("required", ())
    for name, member in schema["properties"].items():
        if name not in required:
            schema["properties"][name] = without_null(member)
