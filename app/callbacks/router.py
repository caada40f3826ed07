"""HTTP for Twilio's callbacks: no API key, but a tag of ours and a signature."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from app.callbacks.fields import Fields
from app.callbacks.service import CallbackService, Received
from app.calls.callback_urls import TAG
from app.errors import MalformedBody

CALLBACK_PATH = "/callbacks/twilio"

# Not in the OpenAPI document: it is Twilio's to call, and nobody else can.
router = APIRouter(prefix=CALLBACK_PATH, include_in_schema=False)


@router.api_route("/{call_id}", methods=["GET", "POST"], status_code=204)
async def take_callback(request: Request, call_id: UUID, x_twilio_signature: Annotated[str, Header()] = "") -> Response:
    """A status callback: https://www.twilio.com/docs/voice/api/call-resource#statuscallback."""
    service: CallbackService = request.state.callbacks
    query = request.url.query
    # Before the body is read: whoever is not Twilio costs no more than this.
    account_id = await service.admit(call_id, query, x_twilio_signature)
    path = f"{CALLBACK_PATH}/{call_id}" + (f"?{query}" if query else "")
    try:
        posted = Fields.parse((await request.body()).decode("utf-8", "replace"))
        # A GET has its fields in the URL, and with it in what is signed.
        fields = posted if request.method == "POST" else Fields.parse(query)
        fields.pop(TAG, None)
    except ValueError:
        raise MalformedBody("The callback has more fields than any of Twilio's.") from None
    await service.take(Received(call_id, account_id, path, fields, posted, x_twilio_signature))
    return Response(status_code=204)
