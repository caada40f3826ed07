"""Content negotiation. Twilio answers in XML if a path does not end in `.json`.

The simulator has JSON only. A request without `.json` has to accept JSON, or it is refused: an answer that Twilio
would not give is worse.
"""

from fastapi import Request

from simulator.errors import TwilioError


def require_json(request: Request) -> None:
    asked_for_json = "application/json" in request.headers.get("accept", "").lower()
    if not request.scope["path"].endswith(".json") and not asked_for_json:
        raise TwilioError(20406)
