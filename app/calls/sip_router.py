"""`POST /v1/sip-uris`: parse and explain one SIP URI, without calling anybody."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    InternalError,
    InvalidRequest,
    MalformedBody,
    Unauthorized,
    UnsupportedMediaType,
)
from app.http.authentication import CallerDep
from app.http.bodies import JsonBody
from app.http.field_errors import field_errors_from
from app.http.openapi import json_body
from app.http.problems import responses
from app.sip import Severity, SipUri

router = APIRouter(prefix="/v1/sip-uris", tags=["SIP addresses"])

Pair = Annotated[list[str | None], Field(min_length=2, max_length=2)]


class SipUriQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    uri: str = Field(description="Any text; it is explained whatever it is.")


class SipFinding(BaseModel):
    code: str = Field(description="Stable; [SIP](/docs/sip) explains each.")
    severity: Severity = Field(
        description="`error` refuses a call; `policy` is accepted, and worth a second look; `warning` is accepted and shown."
    )
    start: int = Field(description="The finding is about the characters from here …")
    end: int = Field(description="… to before here.")
    detail: str = Field(description="How to mend it.")


class SipUriParts(BaseModel):
    """Decoded; null or empty where a fault leaves a part undetermined."""

    scheme: str | None
    user: str | None
    password: str | None = Field(description="Never shown: `***` where there is one.")
    host: str | None = Field(description="In the form that an allow-list compares.")
    port: int | None
    uri_parameters: list[Pair] = Field(description="Name and value, in order.")
    headers: list[Pair] = Field(description="Name and value, in order.")


class SipUriExplanation(BaseModel):
    uri: str
    valid: bool = Field(description="No finding is an error: a call to it would be sent to Twilio.")
    findings: list[SipFinding]
    parsed: SipUriParts


_EXAMPLES: dict[str, dict[str, Any]] = {
    "basic": {"summary": "A plain address", "value": {"uri": "sip:kate@example.com"}},
    "guide": {
        "summary": "Twilio's guide's own headers",
        "value": {"uri": "sip:michael@example.com?mycustomheader=foo&myotherheader=bar"},
    },
    "contradiction": {"summary": "A contradiction", "value": {"uri": "sip:jack@example.com;secure=true;transport=tcp"}},
    "injection": {"summary": "An injected header", "value": {"uri": "sip:kate@example.com?X-a=b%0d%0aEvil:%20c"}},
}


@router.post(
    "",
    operation_id="explain_sip_uri",
    summary="Explain a SIP URI",
    response_model=SipUriExplanation,
    openapi_extra=json_body("SipUriQuestion", _EXAMPLES),
    responses=responses(
        MalformedBody,
        Unauthorized,
        BodyTooLarge,
        UnsupportedMediaType,
        InvalidRequest,
        InternalError,
        DatabaseUnavailable,
        method="POST",
        instance="/v1/sip-uris",
    ),
)
async def explain_sip_uri(_: CallerDep, body: JsonBody) -> dict[str, Any]:
    """The parts of the address and everything there is to say about it, by the rules that creations are held to.

    The answer is 200 for an invalid address too: the explanation is what was asked for.
    """
    try:
        question = SipUriQuestion.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(field_errors=tuple(field_errors_from(error))) from None
    return SipUri.parse(question.uri).as_dict()
