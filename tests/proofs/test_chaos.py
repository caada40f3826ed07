"""A short form of `make chaos`: the promises hold while processes are killed and Postgres fails."""

from tests.proofs.proof import assert_short_form_passes

PROMISES = (
    "duplicate dials",
    "accepted calls without their record",
    "records bound to the wrong sid",
    "wrong not_started",
    "records not settled",
    "genuine callbacks refused",
    "answers 500",
)


def test_no_duplicate_no_loss_and_no_wrong_record_in_chaos() -> None:
    options = {"creations": 90, "clients": 12, "rounds": 1, "seed": 20261123, "kills": 8}
    assert_short_form_passes("tests.proofs.chaos", options, PROMISES)
