"""Twilio's error codes and the shape of its error answers.

Codes: https://www.twilio.com/docs/api/errors. Status and text of an error are those of a recorded answer of Twilio. If no such
answer was found, the status is 400 and the text is the simulator's own.
"""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import HTMLResponse, JSONResponse, Response

ERROR_CATALOGUE: Mapping[int, tuple[int, str]] = {
    10004: (400, "Call concurrency limit exceeded"),
    20001: (400, "PageToken is required for paging"),
    20003: (401, "Authenticate"),
    20004: (405, "Method not allowed"),
    20007: (400, "Page size must be no more than {}"),
    20009: (400, "Cannot delete this resource before it is complete"),
    20403: (403, "Forbidden"),
    20404: (404, "The requested resource {} was not found"),
    # The simulator's own code: Twilio answers XML if the path does not end in .json.
    20406: (406, "This simulator answers JSON only: add .json to the path or send Accept: application/json"),
    20422: (400, "Invalid parameter: {}"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service Unavailable"),
    21200: (400, "{} is not a valid URL"),
    21201: (400, "No 'To' number is specified"),
    21205: (400, "Url is not a valid URL: {}"),
    21206: (400, "SendDigits is not valid: {}"),
    21208: (400, "Timeout is not valid: {}"),
    21209: (400, "{} is not a valid HTTP method: use GET or POST"),
    21211: (400, "The phone number you are attempting to call, {}, is not valid."),
    21212: (400, "The source 'From' provided, {}, is not valid."),
    21213: (400, "No 'From' number is specified"),
    21215: (400, "Account not authorized to call {}"),
    21217: (400, "The phone number you are attempting to call, {}, does not appear to be valid"),
    21218: (400, "ApplicationSid is not valid: {}"),
    21220: (400, "Call is not in-progress. Cannot redirect."),
    21221: (400, "SipAuthUsername must be fewer than 256 characters"),
    21222: (400, "SipAuthUsername contains illegal characters"),
    21223: (400, "SipAuthPassword must be fewer than 256 characters"),
    21224: (400, "SipAuthPassword contains illegal characters"),
    21225: (400, "SipAuthPassword is required when SipAuthUsername is given"),
    21227: (400, "The headers portion of the SIP URI must be fewer than 1024 characters"),
    21228: (400, "Invalid SIP header: illegal characters in the header name {}"),
    21229: (400, "Invalid SIP header: illegal characters in the value of {}"),
    22005: (400, "Call Queue Full"),
    32018: (400, "Twiml must be no more than 4000 characters"),
}


class TwilioError(Exception):
    """An error answer in the shape of https://www.twilio.com/docs/usage/twilios-response#response-formats-exceptions.

    `value` replaces `{}` in the text of the error code. `message` replaces the whole text.
    """

    def __init__(self, code: int, value: str = "", *, message: str | None = None, retry_after_s: int | None = None) -> None:
        status, text = ERROR_CATALOGUE[code]
        self.code: int | None = code
        self.status = status
        self.retry_after_s = retry_after_s
        self.message = message or text.format(value)
        super().__init__(f"{code}: {self.message}")

    def response(self) -> Response:
        body = {
            "code": self.code,
            "message": self.message,
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return JSONResponse(body, self.status, headers)


class ProxyRefusal(TwilioError):
    """A refusal by a proxy in front of Twilio: an HTML page, without Twilio's code and headers."""

    def __init__(self, status: int) -> None:
        super().__init__(20404)
        self.status, self.code = status, None

    def response(self) -> Response:
        return proxy_page(self.status)


def proxy_page(status: int) -> HTMLResponse:
    """Returns the HTML page of a proxy in front of Twilio's API."""
    title = f"{status} {HTTPStatus(status).phrase}"
    return HTMLResponse(f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n", status)
