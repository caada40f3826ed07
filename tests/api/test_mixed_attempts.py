"""The detail of a `not_started` outcome is true for a dial whose attempts failed in different ways."""

import httpx
import pytest
from pydantic import SecretStr

from app.calls.creation.dial import DialTimeBudget, NotStartedOutcome, PreparedCall, dial
from app.clock import monotonic_seconds
from app.twilio.client import HttpClient, TwilioClient
from app.twilio.schemas import Credential, Form

ACCOUNT_SID = "AC" + "0" * 32
A, B = (Credential(ACCOUNT_SID, f"SK{name * 32}", SecretStr("secret"), reference=name) for name in "ab")
BUDGET = DialTimeBudget(total_s=60, attempt_s=5, connect_s=2)
NOT_SENT = "The last attempt could not be sent to Twilio; no attempt was processed."
THROTTLED = "Twilio answered the last attempt with 429; no attempt was processed."


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Answers each request with the next status of the script. Without a next one, the connection is refused."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.statuses:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(self.statuses.pop(0), json={"code": 20001}, headers={"Twilio-Request-Id": "RQ1"})


async def may_repeat() -> bool:
    return True


@pytest.mark.parametrize(
    ("credentials", "statuses", "results", "slug", "detail"),
    [
        ([A], [429], ["throttled", *["connect_error"] * 4], "upstream-unreachable", NOT_SENT),
        ([A, B], [401], ["credential_rejected", *["connect_error"] * 5], "upstream-unreachable", NOT_SENT),
        ([A, B], [401, *[429] * 5], ["credential_rejected", *["throttled"] * 5], "upstream-throttled", THROTTLED),
    ],
    ids=["429, then refused connections", "401, then refused connections", "401, then 429s"],
)
async def test_the_detail_describes_the_last_attempt(
    credentials: list[Credential], statuses: list[int], results: list[str], slug: str, detail: str
) -> None:
    http = HttpClient(ScriptedTransport(*statuses), timeout=httpx.Timeout(5), user_agent="test")
    twilio = TwilioClient(http, base_url="http://twilio.invalid")
    prepared = PreparedCall(Form.from_parameters({"to": "sip:kate@example.com", "from": "Jack"}), began=monotonic_seconds())
    outcome = await dial(twilio, credentials, prepared, budget=BUDGET, may_repeat=may_repeat)
    assert isinstance(outcome, NotStartedOutcome)
    assert [attempt.result for attempt in outcome.attempts] == results
    assert (outcome.problem.slug, outcome.problem.detail) == (slug, detail)
