"""`POST /v1/sip-uris`: parses and explains a SIP URI, without placing a call."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import (
    DatabaseUnavailable,
    InternalError,
    InvalidRequest,
)
from app.http.authentication import CallerDep
from app.http.bodies import JSON_BODY_ERRORS, JsonBody
from app.http.field_errors import field_errors_from
from app.http.openapi import json_request_body
from app.http.problems import error_responses
from app.http.query import refuse_unknown_parameters
from app.http.routes import ScopedRoute, needs
from app.sip import Severity, SipUri
from app.tenants.scopes import Scope

router = APIRouter(
    prefix="/v1/sip-uris",
    tags=["SIP addresses"],
    route_class=ScopedRoute,
    dependencies=[Depends(refuse_unknown_parameters)],
)

NameAndValue = Annotated[list[str | None], Field(min_length=2, max_length=2)]


class SipUriQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    uri: str = Field(description="The text to explain. It does not have to be a valid SIP URI.")


class SipFinding(BaseModel):
    code: str = Field(description="A stable code; [SIP](/docs/sip) explains each.")
    severity: Severity = Field(
        description="An `error` refuses the call. Findings of `policy` (legal, but questionable) and `warning` are only shown."
    )
    start: int = Field(description="The index of the first character that the finding is about.")
    end: int = Field(description="The index after the last character that the finding is about.")
    detail: str = Field(description="What is wrong, and how to fix it.")


class SipUriParts(BaseModel):
    """The parts of the URI, decoded. A part that cannot be determined is null or empty."""

    scheme: str | None
    user: str | None
    password: str | None = Field(description="`***` if there is a password; it is never shown.")
    host: str | None = Field(description="The host in its normal form, as an allow-list compares it.")
    port: int | None
    uri_parameters: list[NameAndValue] = Field(description="Pairs of name and value, in order.")
    headers: list[NameAndValue] = Field(description="Pairs of name and value, in order.")


class SipUriExplanation(BaseModel):
    uri: str
    valid: bool = Field(description="Whether a call to this URI would be sent to Twilio: no finding is an error.")
    findings: list[SipFinding]
    parsed: SipUriParts


_EXAMPLES: dict[str, dict[str, Any]] = {
    "basic": {"summary": "A plain address", "value": {"uri": "sip:kate@example.com"}},
    "guide": {
        "summary": "The headers of Twilio's guide",
        "value": {"uri": "sip:michael@example.com?mycustomheader=foo&myotherheader=bar"},
    },
    "contradiction": {
        "summary": "A contradiction",
        "value": {"uri": "sip:jack@example.com;secure=true;transport=tcp"},
    },
    "injection": {"summary": "An injected header", "value": {"uri": "sip:kate@example.com?X-a=b%0d%0aEvil:%20c"}},
}


@router.post(
    "",
    operation_id="explain_sip_uri",
    summary="Explain a SIP URI",
    response_model=SipUriExplanation,
    openapi_extra=json_request_body("SipUriQuestion", _EXAMPLES),
    responses=error_responses(
        *JSON_BODY_ERRORS,
        InvalidRequest,
        InternalError,
        DatabaseUnavailable,
        method="POST",
        instance="/v1/sip-uris",
    ),
)
@needs(Scope.CALL)
async def explain_sip_uri(_: CallerDep, body: JsonBody) -> dict[str, Any]:
    """Returns the parts of the URI and all findings, by the same rules as for the `to` of a call.

    The status is 200 for an invalid URI too.
    """
    try:
        question = SipUriQuestion.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(field_errors=tuple(field_errors_from(error))) from None
    return SipUri.parse(question.uri).as_dict()
