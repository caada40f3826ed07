"""A short form of `make storm`: every event is delivered, even if callbacks and processes fail."""

from tests.proofs.proof import assert_short_form_passes

PROMISES = (
    "calls without their record",
    "records without the true final status",
    "records without the true duration, price or times",
    "calls whose status went backwards",
    "deliveries lost",
    "deliveries of events that did not happen",
    "deliveries not shown as delivered",
    "events with more than one webhook id",
    "webhook ids of more than one event",
    "requests with a wrong signature",
    "genuine callbacks refused",
    "answers 500",
)


def test_every_delivery_arrives_and_every_record_is_correct_in_a_storm() -> None:
    assert_short_form_passes("tests.proofs.storm", {"calls": 48, "rounds": 1, "seed": 20261124, "pause": 5}, PROMISES)
