"""A short form of `make chaos`: the promises hold while everything is killed, lost and restarted."""

import subprocess
import sys


def test_no_duplicate_no_loss_no_wrong_record_under_fire() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.proofs.chaos",
        "--creations",
        "90",
        "--clients",
        "12",
        "--rounds",
        "1",
        "--seed",
        "20261123",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for promise in (
        "duplicate dials",
        "accepted calls without their record",
        "records bound to the wrong sid",
        "wrong not_started",
        "records not settled",
        "answers 500",
    ):
        assert f"0  {promise}" in result.stdout
