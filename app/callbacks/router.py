"""The route of Twilio's callbacks. It needs no API key.

A callback is authenticated by Twilio's signature, and by the tag that Callgate put into the callback URL.
"""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from app.callbacks.fields import FormFields
from app.callbacks.service import CallbackService, ReceivedCallback
from app.calls.callback_urls import CALLBACK_PATH, TAG_PARAMETER
from app.errors import MalformedBody, RouteNotFound
from app.http.routes import ScopedRoute, public

# Not in the OpenAPI document: only Twilio can call it.
router = APIRouter(prefix=CALLBACK_PATH, include_in_schema=False, route_class=ScopedRoute)


@router.api_route("/{call_id}", methods=["GET", "POST"], status_code=204)
@public
async def receive_callback(request: Request) -> Response:
    """Receives a status callback of Twilio: https://www.twilio.com/docs/voice/api/call-resource#statuscallback."""
    service: CallbackService = request.state.callbacks
    call_id = _parse_uuid(request.scope["path"].removeprefix(f"{CALLBACK_PATH}/"))
    signature = request.headers.get("X-Twilio-Signature", "")
    query = request.scope["query_string"].decode("ascii")  # the protocol refuses a target that is not ASCII
    # Check before the body is read, so that requests that are not from Twilio stay cheap.
    account_id = await service.find_signing_account(call_id, query, signature)
    path = f"{CALLBACK_PATH}/{call_id}" + (f"?{query}" if query else "")
    try:
        posted = FormFields.parse((await request.body()).decode("utf-8", "replace"))
        # A GET has its fields in the URL, which is signed.
        fields = posted if request.method == "POST" else FormFields.parse(query)
        fields.pop(TAG_PARAMETER, None)
    except ValueError:
        raise MalformedBody("The callback has too many fields.") from None
    await service.verify_and_apply(ReceivedCallback(call_id, account_id, path, fields, posted, signature))
    return Response(status_code=204)


async def receive_callback_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs `receive_callback` as an ASGI app, for requests that `is_callback_request` accepts. The middleware handles errors.

    The direct call avoids FastAPI's own work around an endpoint, which would be three quarters of the cost of a refused
    request.
    """
    scope["route"] = _ROUTE
    response = await receive_callback(Request(scope, receive, send))
    await response(scope, receive, send)


def is_callback_request(scope: Scope) -> bool:
    return scope["path"].startswith(f"{CALLBACK_PATH}/") and scope["method"] in ("GET", "POST")


def _parse_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise RouteNotFound from None


_ROUTE = router.routes[0]
