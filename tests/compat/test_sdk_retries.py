"""The SDK's automatic retries place no second call. A short form of `python -m tests.proofs.sdk_retries`."""

import pytest

from tests.proofs.sdk_retries import measure


@pytest.mark.parametrize("keyed", [False, True], ids=["without_keys", "with_keys"])
async def test_the_sdks_retries_place_no_second_call(database_url: str, keyed: bool) -> None:
    verdict = await measure(database_url, creations=40, concurrency=20, keyed=keyed, seed=6)
    assert not any(verdict.faults.values()), verdict.faults
    assert verdict.posts > len(verdict.outcomes) == 40
    assert set(verdict.outcomes.values()) > {"started", 409}
