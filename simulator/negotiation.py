"""Content negotiation: refuses requests that Twilio would answer in XML.

Twilio answers in XML if a path does not end in `.json`. The simulator has JSON only, so it refuses such a request unless the
client accepts JSON.
"""

from fastapi import Request

from simulator.errors import TwilioError


def require_json(request: Request) -> None:
    asked_for_json = "application/json" in request.headers.get("accept", "").lower()
    if not request.scope["path"].endswith(".json") and not asked_for_json:
        raise TwilioError(20406)
