"""Tests the sentence in which the console tells what happened to a call."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from app.console.calls.records import CallHistory, PendingEndRequest
from app.console.calls.summary import summarize_history
from app.console.calls.texts import duration_in_words
from tests.console.histories import at, delivery, event, history, waiting

COMPLETED: dict[str, Any] = {"status": "completed", "duration": 9, "price": Decimal("-0.00750"), "price_unit": "USD"}
UNKNOWN: dict[str, Any] = {"execution": "unknown", "settled_by": None, "search_at": at(90)}


def refused(slug: str, **upstream: Any) -> CallHistory:
    problem = {"slug": slug, "detail": "…", **({"upstream": upstream} if upstream else {})}
    return history(execution="not_started", problem=problem)


STORIES: dict[str, tuple[CallHistory, str, str]] = {
    "completed": (history(**COMPLETED), "Rang once, answered, 9 s, −0.00750 USD.", "ok"),
    "completed, no price": (history(**COMPLETED | {"price": None}), "Rang once, answered, 9 s, no price yet.", "ok"),
    "machine": (
        history(**COMPLETED, answered_by="machine_end_beep"),
        "Rang once, answered by a machine, 9 s, −0.00750 USD.",
        "ok",
    ),
    "ended here": (
        history(event(12, "call.updated", parameters=["status"], status="completed"), **COMPLETED),
        "Rang once, answered, 9 s, ended by a request through Callgate, −0.00750 USD.",
        "ok",
    ),
    "busy": (
        history(event(8, "call.callback", CallStatus="busy", SipResponseCode="486"), status="busy", price=Decimal(0)),
        "Dialled once, busy (SIP 486), 0.",
        "ok",
    ),
    "no answer": (history(status="no-answer"), "Rang once, no answer.", "ok"),
    "canceled": (history(status="canceled"), "Canceled before it was answered.", "ok"),
    "failed": (
        history(event(8, "call.callback", CallStatus="failed", SipResponseCode="404"), status="failed"),
        "Twilio could not complete the call (SIP 404).",
        "warning",
    ),
    "queued": (history(status="queued", settled_at=at(58)), "In Twilio's queue for 2 s.", ""),
    "ringing": (
        history(event(56, "call.status", status="ringing", previous="queued"), status="ringing"),
        "Ringing for 4 s.",
        "",
    ),
    "in progress": (
        history(event(51, "call.status", status="in-progress", previous="ringing"), status="in-progress"),
        "Rang once, answered, in progress for 9 s.",
        "",
    ),
    "scheduled": (
        history(execution="scheduled", settled_by=None, dial=waiting(due=240, ring_by=960), queue="reminders"),
        "Waits in the queue reminders and is due in 3 min; it expires unless it is dialled within 15 min.",
        "",
    ),
    "due": (
        history(execution="scheduled", settled_by=None, dial=waiting(due=40, ring_by=960)),
        "Has been due for 20 s and waits for its turn; it expires unless it is dialled within 15 min.",
        "",
    ),
    "paused": (
        history(
            execution="scheduled",
            settled_by=None,
            dial=waiting(due=40, ring_by=960),
            queue="reminders",
            is_queue_paused=True,
        ),
        "Has been due for 20 s and waits because the queue reminders is paused; it expires unless it is dialled within 15 min.",
        "",
    ),
    "waits again": (
        history(
            event(3, "call.scheduled", problem="upstream-throttled"),
            execution="scheduled",
            settled_by=None,
            dial=waiting(due=65, ring_by=960),
        ),
        "Was not started: Twilio took no more requests at that moment. It is tried again in 5 s; it expires unless it is "
        "dialled within 15 min.",
        "",
    ),
    "granted": (history(execution="scheduled", settled_by=None), "Its turn has come; it is about to be dialled.", ""),
    "late": (
        history(execution="scheduled", settled_by=None, dial=waiting(due=10, ring_by=50)),
        "Has been due for 50 s and waits for its turn. It was not dialled by its latest time, so it expires.",
        "warning",
    ),
    "pending": (history(execution="pending", settled_by=None, now=2), "Has been on its way to Twilio for 2 s.", ""),
    "pending for long": (
        history(execution="pending", settled_by=None, now=400),
        "Has been pending for 6 min 40 s, too long: check that a worker runs.",
        "danger",
    ),
    "unknown": (
        history(event(2, "call.unknown", reason="read_timeout"), **UNKNOWN),
        "It is unknown whether Twilio has this call: no answer in time. "
        "The first search of Twilio's list is in 30 s. It is never dialled again.",
        "warning",
    ),
    "abandoned": (
        history(event(2, "call.unknown"), **UNKNOWN),
        "It is unknown whether Twilio has this call: the process that sent it has ended. "
        "The first search of Twilio's list is in 30 s. It is never dialled again.",
        "warning",
    ),
    "searched": (
        history(
            event(2, "call.unknown", reason="read_timeout"),
            event(17, "call.searched", result="none", candidates=0, rivals=0),
            event(50, "call.searched", result="ambiguous", candidates=2, rivals=1),
            **UNKNOWN,
        ),
        "It is unknown whether Twilio has this call: no answer in time. "
        "The last of 2 searches of Twilio's list found several calls, and cannot tell which one it is. "
        "The next search is in 30 s. "
        "It is never dialled again.",
        "warning",
    ),
    "not searched any more": (
        history(event(2, "call.unknown", reason="read_timeout"), **UNKNOWN | {"search_at": None}),
        "It is unknown whether Twilio has this call: no answer in time. "
        "It is not searched for any more: only a callback can settle it.",
        "danger",
    ),
    "to be ended": (
        history(event(2, "call.unknown", reason="read_timeout"), **UNKNOWN, pending_end=PendingEndRequest("completed", at(30))),
        "It is unknown whether Twilio has this call: no answer in time. "
        "The first search of Twilio's list is in 30 s. It is never dialled again. "
        "It is ended as soon as it is known to have started.",
        "warning",
    ),
    "started, to be ended": (
        history(status="ringing", pending_end=PendingEndRequest("completed", at(30))),
        "Ringing for 1 min. The request to end it is repeated until Twilio accepts or refuses it.",
        "",
    ),
    "ended, to be ended": (
        history(status="busy", pending_end=PendingEndRequest("completed", at(30))),
        "Dialled once, busy.",
        "ok",
    ),
    "refused": (
        refused("upstream-rejected", status=400, code=13223, message="Dial: Invalid number format +15551234567"),
        "Twilio refused it (code 13223: “Dial: Invalid number format +•••4567”). It did not ring.",
        "warning",
    ),
    "unreachable": (
        refused("upstream-unreachable"),
        "The last attempt could not be sent to Twilio. It did not ring.",
        "warning",
    ),
    "throttled": (
        refused("upstream-throttled", status=429, code=20429, message="Too Many Requests"),
        "Twilio took no more requests at that moment (code 20429: “Too Many Requests”). It did not ring.",
        "warning",
    ),
    "another problem": (
        refused("no-usable-credentials"),
        "The tenant has no usable Twilio credentials. It did not ring.",
        "warning",
    ),
    "none found": (
        history(
            event(900, "call.not_started", settled_by="none_found", searches=5),
            execution="not_started",
            settled_by="none_found",
        ),
        "It was unknown whether Twilio had this call. 5 searches of Twilio's list did not find it. It most likely "
        "did not ring.",
        "warning",
    ),
    "expired": (
        history(execution="not_started", settled_by="expired"),
        "Expired: it was not dialled before its latest time. It did not ring.",
        "warning",
    ),
    "canceled before dial": (
        history(execution="not_started", settled_by="canceled"),
        "Canceled before it was dialled. It did not ring.",
        "",
    ),
    "found by a search": (
        history(**COMPLETED | {"settled_by": "list", "settled_at": at(45)}),
        "Rang once, answered, 9 s, −0.00750 USD. Whether it had started was unknown for 45 s, until a search of Twilio's list "
        "showed it.",
        "ok",
    ),
    "corrected": (
        history(event(50, "call.corrected", was={"settled_by": "none_found", "problem": "none-found"}), **COMPLETED),
        "Rang once, answered, 9 s, −0.00750 USD. At first it was reported as not started: No such call was found at Twilio.",
        "ok",
    ),
    "second sid": (
        history(event(50, "call.second_sid", sid="CA" + "f" * 32), **COMPLETED),
        "Rang once, answered, 9 s, −0.00750 USD. Twilio reports a second call for this record, which must not happen: please "
        "report it.",
        "danger",
    ),
    "deleted": (
        history(**COMPLETED, deleted_at=at(50)),
        "Rang once, answered, 9 s, −0.00750 USD. It was deleted at Twilio.",
        "ok",
    ),
    "deliveries": (
        history(
            deliveries=[
                delivery(5, state="gave_up", attempts=12),
                delivery(6, state="pending", attempts=2),
                delivery(7, state="pending", attempts=1),
                delivery(8, state="delivered", attempts=1),
            ],
            **COMPLETED,
        ),
        "Rang once, answered, 9 s, −0.00750 USD. 1 delivery was given up. 2 deliveries have failed so far and are tried again.",
        "warning",
    ),
    "redialed": (
        history(status="no-answer", redial_of=uuid4(), redial_id=uuid4()),
        "Rang once, no answer. It is the redial of an earlier call. It is redialled as another call, as its `redial` asks.",
        "ok",
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_story_says_what_happened(name: str) -> None:
    told, text, tone = STORIES[name]
    story = summarize_history(told)
    assert (story.text, story.tone) == (text, tone)


def test_a_revealed_story_has_twilios_words_whole() -> None:
    told, _, _ = STORIES["refused"]
    assert "+15551234567" in summarize_history(told, reveal=True).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (0.04, "0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_length_of_time_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration_in_words(timedelta(seconds=seconds)) == text
