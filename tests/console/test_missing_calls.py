"""Tests calls that Twilio does not find. The console shows that such a call still counts as one of the concurrent calls.

It counts until Twilio finds the call, or until Callgate takes the call as deleted.
"""

from datetime import timedelta
from uuid import UUID

from app.jobs.refresh import CallRefresher
from app.scheduling.administration import PaceAdministration
from app.scheduling.dial_slots import lock_pace_and_free_slots
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, text_of
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import run_step, running_refresher
from tests.support.upstream import answer, call_resource, error, running_upstream

NOTE = "Twilio has answered that it has no such call."


async def refresh(gateway: Gateway, refresher: CallRefresher, call_id: str, *, age: timedelta = timedelta(0)) -> None:
    """Makes the call `age` old, and lets the worker fetch it from Twilio."""
    statement = """UPDATE call SET refresh_at = now() - interval '1 second', settled_at = now() - $2::interval,
        created_at = now() - $2::interval WHERE id = $1"""
    await gateway.database.fetch(statement, UUID(call_id), age)
    assert await run_step(refresher)


async def place_with_slot(gateway: Gateway, tenant: Tenant) -> str:
    """Places a call on an account that allows one concurrent call. Returns the call's id."""
    pace = PaceAdministration(gateway.database, gateway.tenants.keyring, gateway.tenants.actor)
    await pace.set_pace(tenant.id, account_sid=tenant.account_sid, change={"max_concurrent": 1})
    gateway.invalidate_cache()
    return str((await tenant.create()).raise_for_status().json()["id"])


async def test_now_and_the_page_of_the_call_say_that_it_holds_a_slot(gateway: Gateway, log_in: LogIn) -> None:
    resource, missing = call_resource(status="ringing"), error(404, 20404)
    async with running_upstream(answer(201, resource), missing, missing, answer(200, resource), missing) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await place_with_slot(gateway, tenant)
        person, operator = await log_in(tenant.id, Scope.READ), await log_in()
        other = await log_in((await gateway.add_tenant()).id)
        async with running_refresher(gateway) as refresher:
            await refresh(gateway, refresher, call_id)
            assert NOTE in text_of(await person.get(f"/calls/{call_id}"))
            assert "Twilio does not know" not in text_of(await operator.get("/now"))
            await gateway.database.fetch("UPDATE dial_slot SET missing_since = missing_since - interval '12 minutes'")
            await refresh(gateway, refresher, call_id)
            for one in (person, operator):
                shown = await one.get("/now")
                assert "Twilio does not know 1 of the concurrent calls, the oldest for 12 min." in text_of(shown)
                assert f'href="/console/calls/{call_id}"' in shown.text
            assert "Twilio does not know" not in text_of(await other.get("/now"))
            assert "For 12 min" in text_of(await person.get(f"/calls/{call_id}"))

            await refresh(gateway, refresher, call_id)
            assert "Twilio does not know" not in text_of(await person.get("/now"))
            assert NOTE not in text_of(await person.get(f"/calls/{call_id}"))
            account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
            assert account_id
            assert await lock_pace_and_free_slots(gateway.database, account_id) == 0

            await refresh(gateway, refresher, call_id, age=timedelta(minutes=61))
            assert "It was deleted at Twilio." in text_of(await person.get(f"/calls/{call_id}"))
            assert await lock_pace_and_free_slots(gateway.database, account_id) == 1
            assert "Twilio does not know" not in text_of(await person.get("/now"))
