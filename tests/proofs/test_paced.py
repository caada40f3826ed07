"""A short form of the proof of pace, deadlines and cancellations in `make chaos`."""

from tests.proofs.proof import assert_short_form_passes

PROMISES = (
    "duplicate dials",
    "accepted calls without their record",
    "records bound to the wrong sid",
    "wrong not_started",
    "records not settled",
    "rang after a confirmed cancellation",
    "rang although every answer was paced",
    "dialled before not_before",
    "dialled 2 s after ring_by",
    "rang without a grant",
    "accounts or queues that granted faster than their pace",
    "accounts or queues that dialled faster than their pace, with up to 5 s from grant to dial",
    "accounts or queues with more slots than they may have",
    "creations above the account's concurrent calls",
    "calls placed last that were not dialled",
    "slots left of calls that are over",
    "calls under way without a slot",
    "accounts or queues whose count of slots is wrong",
    "reminders dialled beyond the pace",
    "reminders dialled late",
    "reminders neither dialled nor expired",
    "reminders dialled before urgent ones",
    "calls in Twilio's queue that rang late",
    "calls in Twilio's queue neither rung nor canceled",
    "runs in which Twilio held no call at ring_by",
    "genuine callbacks refused",
    "answers 500",
)


def test_scheduled_calls_keep_pace_deadlines_and_cancellations_while_processes_are_killed() -> None:
    options = {"creations": 60, "rounds": 1, "seed": 20261129, "pause": 8, "kills": 4, "window": 3, "pace": 10}
    assert_short_form_passes("tests.proofs.paced", options, PROMISES)
