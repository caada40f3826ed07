"""Tests the limits of concurrent requests of a tenant and of the process. A request that waits too long is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi.responses import StreamingResponse

from app.errors import DatabaseUnavailable, Overloaded, ResponseTruncated
from app.http.concurrency import ConcurrencyLimit, render_rows
from app.http.list_responses import list_response


async def _until(condition: asyncio.Event, limit: ConcurrencyLimit, tenant: str, log: list[str], name: str) -> None:
    async with limit.admit_request(tenant):
        log.append(name)
        await condition.wait()


async def test_a_tenant_waits_for_its_own_lists_only() -> None:
    limit, log, done = ConcurrencyLimit(per_process=2, per_tenant=1), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(_until(done, limit, "busy", log, f"busy {number}"))
        await asyncio.sleep(0)
        group.create_task(_until(done, limit, "other", log, "other"))
        await asyncio.sleep(0.01)
        assert log == ["busy 0", "other"]
        done.set()
    assert len(log) == 6


async def test_a_wait_that_is_too_long_is_refused_unless_the_response_has_started() -> None:
    limit, log, done = ConcurrencyLimit(per_process=1, per_tenant=1, max_wait_s=0.02), list[str](), asyncio.Event()
    done.set()
    async with limit.admit_request("one"):
        for tenant in ("one", "another"):
            with pytest.raises(Overloaded) as refused:
                async with limit.admit_request(tenant):
                    pass
            assert refused.value.retry_after_s == 1
        gone = asyncio.create_task(_until(done, limit, "one", log, "gone"))
        begun = asyncio.create_task(_begun(limit, log))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0.1)
        assert log == []
    await begun
    assert log == ["begun"]
    async with limit.admit_request("one"):  # refused and cancelled requests have freed their slots
        pass


async def _begun(limit: ConcurrencyLimit, log: list[str]) -> None:
    async with limit.admit_request("one", is_wait_unlimited=True):
        log.append("begun")


async def test_rows_are_rendered_in_order_and_other_tasks_run_in_between() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    text = await render_rows(range(205), lambda number: b"%d" % number)
    counting.cancel()
    assert text == b",".join(b"%d" % number for number in range(205))
    assert turns >= 10
    assert await render_rows([], lambda number: b"%d" % number) == b""


async def _pieces(*pieces: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if error:
        raise error


@pytest.mark.parametrize(
    ("pieces", "body"),
    [((), b'{"calls":[],"next":null}'), ((b"1",), b'{"calls":[1],"next":null}'), ((b"1,2", b"3", b"4"), None)],
)
async def test_a_list_of_one_chunk_has_a_content_length_and_a_longer_one_is_streamed(
    pieces: tuple[bytes, ...], body: bytes | None
) -> None:
    answer = await list_response("calls", _pieces(*pieces), {"next": None})
    if body is not None:
        assert (answer.body, answer.headers["content-length"]) == (body, str(len(body)))
        return
    assert isinstance(answer, StreamingResponse)
    assert (
        b"".join([chunk async for chunk in answer.body_iterator if isinstance(chunk, bytes)])
        == b'{"calls":[1,2,3,4],"next":null}'
    )


async def test_an_error_after_the_response_has_started_truncates_it() -> None:
    with pytest.raises(DatabaseUnavailable):
        await list_response("calls", _pieces(error=DatabaseUnavailable()))
    answer = await list_response("calls", _pieces(b"1", b"2", b"3", error=DatabaseUnavailable()))
    assert isinstance(answer, StreamingResponse)
    with pytest.raises(ResponseTruncated):
        [chunk async for chunk in answer.body_iterator]
