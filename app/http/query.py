"""Refuses query parameters that a route would otherwise ignore."""

from collections import Counter
from collections.abc import Collection

from fastapi import Request
from fastapi.dependencies.models import Dependant

from app.errors import FieldError, InvalidRequest
from app.http.limits import MAX_FORM_FIELDS


async def refuse_unknown_parameters(request: Request) -> None:
    """Raises InvalidRequest for query parameters that are unknown or repeated. Routers depend on this function.

    Without this check, a list with a misspelt filter would show everything. If a filter were repeated, all its values but the
    last one would be ignored.
    """
    if faults := query_parameter_errors(request, _query_parameter_names(request.scope["route"].dependant)):
        raise InvalidRequest(field_errors=faults)


def query_parameter_errors(request: Request, known: Collection[str] | None) -> tuple[FieldError, ...]:
    """Returns an error for each query parameter that is not in `known`, and for each that is given more than once.

    With more than MAX_FORM_FIELDS parameters, returns only one error, which says so. If `known` is None, every name is allowed.
    """
    query_string: bytes = request.scope["query_string"]
    if not query_string:
        return ()
    if query_string.count(b"&") >= MAX_FORM_FIELDS:
        return (FieldError("?", "too_many_parameters", f"must have at most {MAX_FORM_FIELDS} parameters"),)
    counts = Counter(name for name, _ in request.query_params.multi_items())
    known = counts if known is None else known
    unknown = [name for name in counts if name not in known]
    repeated = [name for name in counts if name in known and counts[name] > 1]
    return (
        *(FieldError(f"?{name}", "unknown_parameter", "is no parameter of this route") for name in unknown),
        *(FieldError(f"?{name}", "repeated", "must be given once") for name in repeated),
    )


def _query_parameter_names(dependant: Dependant) -> set[str]:
    """Returns the names of the query parameters of an endpoint and of its dependencies."""
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*map(_query_parameter_names, dependant.dependencies))
