"""Builds signed status callbacks, as Twilio sends them, for calls that Twilio has created."""

import base64
from collections.abc import Iterator
from itertools import islice
from urllib.parse import urlencode

import psycopg
from twilio.request_validator import RequestValidator

from app.calls.callback_urls import CALLBACK_PATH, CallbackUrls
from app.security.keyring import Keyring
from bench.connections import raw_request
from bench.subjects import CALL_BODY, PUBLIC_URL, Subject

CALL_STATUSES = ("initiated", "ringing", "in-progress", "completed")


def signed_callbacks_of(subject: Subject) -> Iterator[bytes]:
    """Yields a signed callback for each event of each call that Twilio created.

    The first event of all calls comes first, then the second event of all calls, and so on.
    """
    assert subject.database
    assert subject.secret_key
    urls = CallbackUrls(CALLBACK_PATH, Keyring([base64.b64decode(subject.secret_key)]))
    tokens = {tenant.account_sid: tenant.auth_token for tenant in subject.tenants}
    with psycopg.connect(subject.database) as connection:
        started = connection.execute(
            "SELECT id, account_id, sid, account_sid FROM call WHERE execution = 'started' ORDER BY id"
        ).fetchall()
    for number, event in enumerate(CALL_STATUSES):
        for call_id, account_id, sid, account_sid in started:
            yield _callback_request(
                urls.callback_url_of_call(call_id, account_id), _fields(sid, account_sid, event, number), tokens[account_sid]
            )


def _fields(sid: str, account_sid: str, event: str, number: int) -> dict[str, str]:
    ended = {"CallDuration": "9", "Duration": "1", "SipResponseCode": "200"} if event == "completed" else {}
    return {
        "AccountSid": account_sid,
        "ApiVersion": "2010-04-01",
        "CallSid": sid,
        "CallStatus": event,
        "Called": str(CALL_BODY["to"]),
        "Caller": str(CALL_BODY["from"]),
        "Direction": "outbound-api",
        "From": str(CALL_BODY["from"]),
        "To": str(CALL_BODY["to"]),
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(number),
        "Timestamp": "Tue, 24 Nov 2026 12:00:00 +0000",
        **ended,
    }


def _callback_request(path: str, fields: dict[str, str], auth_token: str) -> bytes:
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": RequestValidator(auth_token).compute_signature(PUBLIC_URL + path, fields),
    }
    return raw_request(path, headers, urlencode(fields).encode())


def split_evenly(requests: Iterator[bytes], parts: int) -> list[list[bytes]]:
    """Splits the requests into `parts` lists of equal length, so that no callback is sent twice. Leaves out the remainder."""
    everything = list(requests)
    size = len(everything) // parts
    remaining = iter(everything)
    return [list(islice(remaining, size)) for _ in range(parts)]
