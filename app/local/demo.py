"""Places the call of `callgate demo` through the local API, and shows the progress of the call until it has a price."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from secrets import token_hex
from typing import Any

import httpx

from app.errors import CommandFailed
from app.local.state import RunningStack, StateFolder
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.directory import TenantDirectory
from app.tenants.errors import AdministrationError

DEMO_TENANT = "demo"
DEMO_ACCOUNT_SID = "AC" + "d0" * 16
DEMO_REQUEST = {"from": "Jack", "to": "sip:kate@example.com", "url": "http://www.example.com/sipdial.xml"}
_POLL_INTERVAL_S = 0.2
_DEMO_CALL_TIMEOUT_S = 120.0

PrintLine = Callable[[str], None]


class DemoFailed(CommandFailed):
    """The demo call could not be placed, or was not completed and priced in time."""


async def prepare_demo_tenant(administration: TenantAdministration, directory: TenantDirectory, folder: StateFolder) -> str:
    """Returns an API key of the demo tenant. Creates the tenant and its Twilio account if they are missing.

    The key is kept in the state folder `folder`. Creates a new key if there is none, or if it is not valid in this database.
    """
    try:
        await administration.get_tenant(DEMO_TENANT)
    except AdministrationError:
        await administration.create_tenant(DEMO_TENANT, name="Demo")
    if await directory.find_usable_account(DEMO_TENANT, account_sid=None) is None:
        await administration.add_credential(
            DEMO_TENANT, account_sid=DEMO_ACCOUNT_SID, secret=token_hex(16), key_sid=None, base_url=None
        )
    if folder.demo_key.exists():
        key = folder.demo_key.read_text().strip()
        known = await directory.find_api_key(key)
        if known and known.client.tenant_id == DEMO_TENANT:
            return key
    _, key = await administration.create_key(DEMO_TENANT, name="demo", creator=COMMAND_LINE_CALLER)
    folder.write(folder.demo_key, key)
    return key


async def place_demo_call(running: RunningStack, key: str, print_line: PrintLine) -> dict[str, Any]:
    """Places the demo call, prints its progress, and returns its record (JSON) once the call has a price.

    Raises DemoFailed if the call is not started, or has no price in time.
    """
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with (
            asyncio.timeout(_DEMO_CALL_TIMEOUT_S),
            httpx.AsyncClient(base_url=running.api_url, headers=headers, timeout=60, trust_env=False) as http,
        ):
            record = await _place_call(http, print_line)
            try:
                return await _follow_until_priced(http, record, print_line)
            finally:
                _overwrite_line("")
    except TimeoutError:
        raise DemoFailed(f"the call was not completed and priced within {_DEMO_CALL_TIMEOUT_S:.0f} s") from None
    except httpx.HTTPError as error:
        raise DemoFailed(f"the gateway did not answer as expected: {error or type(error).__name__}") from error


async def _place_call(http: httpx.AsyncClient, print_line: PrintLine) -> dict[str, Any]:
    print_line(f"POST /v1/calls  {json.dumps(DEMO_REQUEST)}")
    began = time.monotonic()
    response = await http.post("/v1/calls", json=DEMO_REQUEST)
    ms = (time.monotonic() - began) * 1000
    record: dict[str, Any] = response.json()
    if response.status_code != httpx.codes.CREATED:
        raise DemoFailed(f"the call was not started: {response.status_code} {record.get('detail') or record['execution']}")
    print_line(f"{response.status_code} {response.reason_phrase}     {record['execution']} in {ms:.0f} ms: {record['sid']}\n")
    return record


async def _follow_until_priced(http: httpx.AsyncClient, record: dict[str, Any], print_line: PrintLine) -> dict[str, Any]:
    """Prints each new status of the call and then its price, and returns the call's record (JSON).

    Polls the call's events instead of its record, so that a status that lasts less than the poll interval is printed, too.
    """
    path = f"/v1/calls/{record['id']}"
    _print_with_elapsed_time(record["created_at"], record, record["status"], print_line)
    shown = 0
    for spinner in itertools.cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"):
        events = (await http.get(f"{path}/events")).raise_for_status().json()["events"]
        if len(events) > shown:
            record = (await http.get(path)).raise_for_status().json()
        for event in events[shown:]:
            if event["type"] == "call.status":
                lasted = f"after {record['duration']} s" if event["data"]["status"] == "completed" else ""
                _print_with_elapsed_time(event["at"], record, f"{event['data']['status']:<12} {lasted}", print_line)
            elif event["type"] == "call.priced":
                _print_with_elapsed_time(
                    event["at"], record, f"{'priced':<12} {event['data']['price']} {event['data']['price_unit']}", print_line
                )
                return record
        shown = len(events)
        _overwrite_line(f"  {spinner} waiting for the next change")
        await asyncio.sleep(_POLL_INTERVAL_S)
    raise AssertionError("itertools.cycle never ends")


def _print_with_elapsed_time(at: str, record: dict[str, Any], text: str, print_line: PrintLine) -> None:
    """Prints one line: the seconds from the creation of the call in `record` to `at` (ISO 8601), and then `text`."""
    elapsed = datetime.fromisoformat(at) - datetime.fromisoformat(record["created_at"])
    _overwrite_line("")
    print_line(f"  {elapsed.total_seconds():5.1f} s  {text}".rstrip())


def _overwrite_line(text: str) -> None:
    """Overwrites the current line of the terminal; does nothing when standard output is not a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[2K{text}")
        sys.stdout.flush()
