"""Examples of queues for the OpenAPI document."""

from typing import Any

NAME = "reminders"
QUEUE: dict[str, Any] = {
    "name": NAME,
    "paused": False,
    "pace": {"calls_per_second": 1, "burst": 2, "max_concurrent": 10},
    "hours": None,
    "ring_within_s": 3600,
    "created_at": "2026-11-28T08:00:00.123Z",
    "updated_at": "2026-11-28T08:00:00.123Z",
}
_PROGRESS: dict[str, Any] = {
    "waiting": 180,
    "oldest_not_before": "2026-11-28T09:00:00Z",
    "wait_reason": "pace",
    "projected_end_at": "2026-11-28T09:05:12.441Z",
    "counts": {
        "execution": {"scheduled": 180, "started": 117, "not_started": 3},
        "status": {"completed": 98, "busy": 9, "in-progress": 10},
        "problem": {"ring-by-passed": 3},
    },
}
SETTINGS: dict[str, Any] = {
    "queue": {
        "summary": "One call a second, at most ten at the same time",
        "value": {"pace": {"calls_per_second": 1, "max_concurrent": 10}, "ring_within_s": 3600},
    },
    "hours": {
        "summary": "Only on weekdays",
        "value": {
            "hours": {
                "time_zone": "Europe/Berlin",
                "days": ["mon", "tue", "wed", "thu", "fri"],
                "from": "09:00",
                "to": "20:00",
            }
        },
    },
    "pause": {"summary": "Stop dialling", "value": {"paused": True}},
}
_CALL_ID = "01a20722-82cb-7520-b5df-0e45ebf88f42"
BULK: dict[str, Any] = {
    "bulk_call": {
        "summary": "A line",
        "value": {
            "key": "order-4711",
            "to": "sip:kate@example.com",
            "from": "Jack",
            "url": "http://www.example.com/sipdial.xml",
            "not_before": "2026-11-28T09:00:00Z",
        },
    },
}
BULK_ANSWERS: dict[str, Any] = {
    "bulk_answer": {
        "summary": "The answer to a line",
        "value": {"line": 1, "key": "order-4711", "status": 202, "id": _CALL_ID, "execution": "scheduled"},
    },
}
COMPONENTS: dict[str, Any] = {
    "queue": {"summary": "A queue", "value": QUEUE},
    "queue_details": {"summary": "A queue that is being dialled", "value": QUEUE | _PROGRESS},
    "queue_canceled": {"summary": "The calls that waited are canceled", "value": {"canceled": 180}},
    "queues": {"summary": "The last page", "value": {"queues": [QUEUE], "next_cursor": None}},
}
