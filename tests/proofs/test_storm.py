"""A short form of `make storm`: what Twilio tells reaches the tenant, whatever is shuffled, doubled, lost or killed."""

import subprocess
import sys


def test_every_delivery_arrives_and_every_record_ends_true_in_a_storm() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.proofs.storm",
        "--calls",
        "48",
        "--rounds",
        "1",
        "--seed",
        "20261124",
        "--pause",
        "5",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for promise in (
        "calls without their record",
        "records without the true final status",
        "calls whose status went backwards",
        "deliveries lost",
        "deliveries that nobody owed",
        "deliveries not shown as delivered",
        "events with more than one webhook id",
        "webhook ids of more than one event",
        "requests with a wrong signature",
        "answers 500",
    ):
        assert f" 0  {promise}" in result.stdout
