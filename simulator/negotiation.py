"""Paths without `.json`, as in Twilio's guide "Making SIP Calls", are answered by Twilio in XML.

The simulator speaks JSON only, so there it wants to be asked for JSON: refusing is better than an answer that
Twilio would not give.
"""

from fastapi import Request

from simulator.errors import TwilioError


def require_json(request: Request) -> None:
    asked_for_json = "application/json" in request.headers.get("accept", "").lower()
    if not request.url.path.endswith(".json") and not asked_for_json:
        raise TwilioError(20406)
