"""The route of Twilio's callbacks. They are authenticated by Callgate's tag and Twilio's signature instead of an API key."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from app.callbacks.fields import FormFields
from app.callbacks.service import CallbackService, ReceivedCallback
from app.calls.callback_urls import TAG
from app.errors import MalformedBody

CALLBACK_PATH = "/callbacks/twilio"

# Not in the OpenAPI document: only Twilio can call it.
router = APIRouter(prefix=CALLBACK_PATH, include_in_schema=False)


@router.api_route("/{call_id}", methods=["GET", "POST"], status_code=204)
async def take_callback(request: Request, call_id: UUID, x_twilio_signature: Annotated[str, Header()] = "") -> Response:
    """Takes a status callback: https://www.twilio.com/docs/voice/api/call-resource#statuscallback."""
    service: CallbackService = request.state.callbacks
    query = request.url.query
    # Check before the body is read, so that requests that are not from Twilio stay cheap.
    account_id = await service.admit(call_id, query, x_twilio_signature)
    path = f"{CALLBACK_PATH}/{call_id}" + (f"?{query}" if query else "")
    try:
        posted = FormFields.parse((await request.body()).decode("utf-8", "replace"))
        # A GET has its fields in the URL, which is signed.
        fields = posted if request.method == "POST" else FormFields.parse(query)
        fields.pop(TAG, None)
    except ValueError:
        raise MalformedBody("The callback has too many fields.") from None
    await service.take(ReceivedCallback(call_id, account_id, path, fields, posted, x_twilio_signature))
    return Response(status_code=204)
