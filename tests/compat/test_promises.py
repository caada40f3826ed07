"""The promises under Twilio's own paths: one ring, honest answers, nobody else's calls, in Twilio's words."""

import asyncio
import base64
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import created, created_after_release, error, hang, running_upstream

FORM = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}


def calls(tenant: Tenant, rest: str = ".json") -> str:
    return f"/2010-04-01/Accounts/{tenant.account_sid}/Calls{rest}"


async def create(tenant: Tenant, *, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await tenant.http.post(calls(tenant), data=FORM | fields, headers=headers)


def told(response: httpx.Response) -> tuple[int, int]:
    """Status and code, of a body that has Twilio's four members."""
    body = response.json()
    assert body.keys() == {"code", "message", "more_info", "status"}
    assert body["status"] == response.status_code
    assert body["more_info"]
    return response.status_code, body["code"]


async def test_a_key_names_one_dial_here_and_under_v1(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first, again = await create(tenant, key="k"), await create(tenant, key="k")
        assert (first.status_code, again.status_code) == (201, 201)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.json()["sid"] == again.json()["sid"]
        same = {"to": FORM["To"], "from": FORM["From"], "url": FORM["Url"], "account_sid": tenant.account_sid}
        as_json = await tenant.http.post("/v1/calls", json=same, headers={"Idempotency-Key": "k"})
        assert (as_json.status_code, as_json.json()["id"]) == (200, first.headers["Callgate-Call-Id"])
        other = await create(tenant, key="k", To="sip:lena@example.com")
        assert told(other) == (422, 900003)
        assert other.headers["Callgate-Call-Id"] == first.headers["Callgate-Call-Id"]
        assert "the header Callgate-Call-Id" in other.json()["message"]
        assert len(upstream.posts) == 1
    twice = await tenant.http.post(calls(tenant), data=FORM, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert told(twice) == (400, 20422)


async def test_the_first_request_of_a_key_is_waited_for(database_url: str) -> None:
    patient = settings_for(database_url, twilio_read_timeout=20, request_budget=25)
    async with running_upstream(created_after_release()) as upstream, running_gateway(patient) as gateway:
        tenant = await gateway.add_tenant(upstream.url)
        creating = asyncio.create_task(create(tenant, key="k"))
        while not upstream.posts:
            await asyncio.sleep(0.01)
        early = await create(tenant, key="k")
        assert (told(early), early.headers["Retry-After"]) == ((409, 900002), "1")
        upstream.released.set()
        assert (await creating).status_code == 201


async def test_an_unknown_outcome_is_409_also_when_it_is_asked_for_again(gateway: Gateway) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for _ in range(2):
            unknown = await create(tenant, key="k")
            assert told(unknown) == (409, 900001)
            record = (await tenant.http.get(f"/v1/calls/{unknown.headers['Callgate-Call-Id']}")).json()
            assert record["execution"] == "unknown"
        assert len(upstream.posts) == 1


async def test_warnings_are_in_headers(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answer = await create(tenant, To="sip:kate@example.com;transport=tls", Twiml="<Response/>")
        warnings = answer.headers.get_list("Callgate-Warning")
        assert [warning.partition(":")[0] for warning in warnings] == ["To MEDIA_NOT_ENCRYPTED", "Twiml ignored"]


async def test_room_for_no_more_is_told_in_twilios_words_and_not_after_a_dial(database_url: str) -> None:
    async with running_upstream(hang) as upstream, running_gateway(settings_for(database_url, max_in_flight=1)) as small:
        tenant = await small.add_tenant(upstream.url)
        creating = asyncio.create_task(create(tenant))
        while not upstream.posts:
            await asyncio.sleep(0.01)
        for path in (".json", ""):
            refused = await tenant.http.post(calls(tenant, path), content=b"unread", headers={"Authorization": "unread"})
            assert (told(refused), refused.headers["Retry-After"]) == ((503, 20503), "1")
        assert (await tenant.http.get(calls(tenant))).status_code == 200
        upstream.released.set()
        assert told(await creating) == (409, 900001)
        assert len(upstream.posts) == 1


async def test_the_end_of_the_servers_patience_is_never_told_as_not_started(database_url: str) -> None:
    async with running_upstream(hang) as upstream:
        settings = settings_for(database_url, twilio_read_timeout=20, request_budget=25)
        async with httpx.AsyncClient(timeout=30) as http:
            async with running_gateway(settings, grace=1) as stopping:
                tenant = await stopping.add_tenant(upstream.url)
                url, headers = stopping.url + calls(tenant), tenant.http.headers
                creating = asyncio.create_task(http.post(url, data=FORM, headers=headers))
                while not upstream.posts:
                    await asyncio.sleep(0.01)
                asyncio.get_running_loop().call_later(2, upstream.released.set)
            assert told(await creating) == (409, 900001)


@pytest.mark.parametrize(
    ("upstream_says", "expected", "message"),
    [
        (error(400, 21215, "Not to there"), (400, 21215), "Not to there"),
        (error(404, 20404, "No account"), (404, 20404), "No account"),
        (error(401, 20003), (502, 900009), "Twilio refused every active credential"),
        (error(429, 20429), (429, 20429), "none was processed"),
        (error(500, 20500), (409, 900001), "second phone"),
        (error(503, 20503), (409, 900001), "second phone"),
    ],
)
async def test_twilios_own_refusals(gateway: Gateway, upstream_says: Any, expected: tuple[int, int], message: str) -> None:
    async with running_upstream(upstream_says) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        refused = await create(tenant)
        assert told(refused) == expected
        assert message in refused.json()["message"]
        record = (await tenant.http.get(f"/v1/calls/{refused.headers['Callgate-Call-Id']}")).json()
        assert record["execution"] == ("unknown" if expected[0] == 409 else "not_started")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"data": FORM | {"IfMachine": "Hangup"}}, (400, 20001)),
        ({"data": FORM | {"to": "sip:kate@example.com"}}, (400, 20001)),
        ({"data": FORM | {"account_sid": "AC" + "0" * 32}}, (400, 20001)),
        ({"data": FORM | {"Timeout": ["10", "20"]}}, (400, 20422)),
        ({"data": FORM | {"To": "sip:kate@example.com\0"}}, (400, 21211)),
        ({"json": FORM}, (415, 900008)),
        ({"content": b"To=%FF", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, (400, 20422)),
        ({"content": "To=kät".encode(), "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, (400, 20422)),
        ({"data": {f"p{n}": "x" for n in range(600)}}, (400, 20422)),
        ({"data": FORM | {"Twiml": "x" * 70_000}}, (413, 900007)),
        ({"content": b""}, (400, 21201)),
    ],
)
async def test_what_is_not_understood_is_refused_and_not_sent(
    gateway: Gateway, request_: dict[str, Any], expected: tuple[int, int]
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert told(await tenant.http.post(calls(tenant), **request_)) == expected
        assert upstream.received == []


async def test_empty_parameters_count_as_not_given(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await create(tenant, StatusCallback="", Timeout="", Record="False")).status_code == 201
        assert dict(upstream.posts[0].form) == FORM | {"Record": "false"}


async def test_paths_without_json_are_answered_when_json_is_asked_for(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for accept in ("*/*", "application/xml", ""):
            refused = await tenant.http.post(calls(tenant, ""), data=FORM, headers={"Accept": accept})
            assert told(refused) == (406, 900006)
            assert ".json" in refused.json()["message"]
        assert upstream.received == []
        answered = await tenant.http.post(calls(tenant, ""), data=FORM, headers={"Accept": "text/xml, application/json"})
        assert answered.status_code == 201


async def test_what_is_not_there_is_20404_and_20004(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    for path in ("/2010-04-01", "/2010-04-01/Accounts.json", calls(tenant, "/CA1/Nothing.json"), calls(tenant, "s.json")):
        assert told(await tenant.http.get(path)) == (404, 20404)
    assert told(await tenant.http.put(calls(tenant))) == (405, 20004)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_who_may_ask(gateway: Gateway) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    key_id = (await gateway.tenants.list_keys(tenant.id))[0].id
    prefix = tenant.key.rpartition("_")[0] if tenant.key.count("_") == 2 else "_".join(tenant.key.split("_")[:2])
    admitted = [
        basic(tenant.account_sid, tenant.key),
        basic(prefix, tenant.key),
        basic(other.account_sid, tenant.key),
        basic(str(key_id), tenant.key),
        f"Bearer {tenant.key}",
        f"basic {basic(tenant.account_sid, tenant.key).split()[1]}",
    ]
    refused = [
        "",
        "Bearer nonsense",
        "Digest x",
        "Basic !",
        "Basic " + base64.b64encode(b"no-colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        basic(tenant.account_sid, "wrong"),
        basic(tenant.account_sid, tenant.auth_token),
        basic(tenant.account_sid, "\0" + tenant.key),
        basic(tenant.account_sid, other.key + "x"),
        basic("AC1", tenant.key),
        basic("", tenant.key),
        basic(prefix + "x", tenant.key),
        basic(tenant.account_sid, "k" * 5000),
    ]
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        for authorization in admitted:
            assert (await http.get(calls(tenant), headers={"Authorization": authorization})).status_code == 200
        for authorization in refused:
            answer = await http.get(calls(tenant), headers={"Authorization": authorization} if authorization else {})
            assert told(answer) == (401, 20003), authorization
            assert "as the password" in answer.json()["message"]
            assert answer.headers["WWW-Authenticate"].startswith("Basic")
        await gateway.tenants.revoke_key(tenant.key)
        gateway.hears()
        async with asyncio.timeout(30):
            while (answer := await http.get(calls(tenant), headers={"Authorization": admitted[0]})).is_success:
                await asyncio.sleep(0.05)
        assert told(answer) == (401, 20003)


OPERATIONS: list[tuple[str, str, dict[str, str] | None]] = [
    ("POST", ".json", FORM),
    ("GET", ".json", None),
    ("GET", "/{sid}.json", None),
    ("POST", "/{sid}.json", {"Status": "completed"}),
    ("DELETE", "/{sid}.json", None),
]


@pytest.mark.parametrize(("method", "rest", "form"), OPERATIONS)
async def test_nobody_reaches_another_tenants_calls(
    gateway: Gateway, method: str, rest: str, form: dict[str, str] | None
) -> None:
    """Own account, another tenant's, nobody's; and another tenant's sid under one's own account."""
    async with running_upstream(created()) as theirs, running_upstream(created()) as upstream:
        owner, stranger = await gateway.add_tenant(theirs.url), await gateway.add_tenant(upstream.url)
        sid = (await create(owner)).json()["sid"]
        asked = len(theirs.received)
        path = rest.replace("{sid}", sid)
        nobody = f"/2010-04-01/Accounts/AC{'f' * 32}/Calls{path}"
        urls = [calls(owner, path), nobody, *([calls(stranger, path)] if "{sid}" in rest else [])]
        for url in urls:
            for authorization in (f"Bearer {stranger.key}", basic(stranger.account_sid, stranger.key)):
                headers = {"Authorization": authorization}
                refused = await stranger.http.request(method, url, data=form, headers=headers)
                assert told(refused) in ((404, 20404), (401, 20003)), (method, url)
                assert FORM["To"] not in refused.text
        assert (len(theirs.received), upstream.received) == (asked, [])
        if "{sid}" not in rest:
            own = await stranger.http.request(method, calls(stranger, path), data=form)
            assert own.is_success
            assert sid not in own.text
        else:
            await owner.http.request(method, calls(owner, path), data=form)
            assert len(theirs.received) == asked + 1


async def test_a_tenants_second_account_shows_its_own_calls_only(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        second = "AC" + "e" * 32
        await gateway.tenants.add_credential(
            tenant.id, account_sid=second, secret="s" * 32, key_sid=None, base_url=upstream.url
        )
        gateway.hears()
        sid = (await create(tenant)).json()["sid"]
        path = f"/2010-04-01/Accounts/{second}/Calls"
        assert (await tenant.http.get(f"{path}.json")).json()["calls"] == []
        assert told(await tenant.http.get(f"{path}/{sid}.json")) == (404, 20404)
        other = await tenant.http.post(f"{path}.json", data=FORM)
        assert other.json()["account_sid"] == second
        assert upstream.posts[-1].credentials == (second, "s" * 32)


async def test_twilio_out_of_reach_is_told_with_the_age_of_the_news(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
    answer = await tenant.http.get(calls(tenant, f"/{sid}.json"))
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["Warning"].startswith('110 callgate "Twilio could not be asked; the last news is ')
    assert 0 <= int(answer.headers["Age"]) < 60


async def test_lists_show_started_calls_only(gateway: Gateway) -> None:
    async with running_upstream(created(), error(400, 21215), hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answers = [await create(tenant) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 400, 409]
        listed = (await tenant.http.get(calls(tenant))).json()
    assert [call["sid"] for call in listed["calls"]] == [answers[0].json()["sid"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PageSize=1001", (400, 20007)),
        ("PageSize=0", (400, 20007)),
        ("PageSize=many", (400, 20007)),
        ("Page=-1", (400, 20422)),
        ("PageToken=nonsense", (400, 20422)),
        ("Status=initiated", (400, 20422)),
        ("ParentCallSid=CA1", (400, 20422)),
        ("StartTime=yesterday", (400, 20422)),
        ("StartTime%3E=9999-12-31", (400, 20422)),
        ("startTime=2026-01-01", (400, 20001)),
        ("To=a&To=b", (400, 20422)),
        ("To=%00", (400, 20422)),
        ("To=%FF", (400, 20422)),
    ],
)
async def test_lists_refuse_what_they_do_not_understand(gateway: Gateway, query: str, expected: tuple[int, int]) -> None:
    tenant = await gateway.add_tenant()
    assert told(await tenant.http.get(f"{calls(tenant)}?{query}")) == expected


@pytest.mark.parametrize(
    "written", ["2026-11-24", "2026-11-24T23:59:59Z", "11/24/2026 22:05:25 MST", "2026-11-25T01:00:00+02:00"]
)
async def test_dates_may_be_written_in_each_way_that_twilio_documents(gateway: Gateway, written: str) -> None:
    tenant = await gateway.add_tenant()
    assert (await tenant.http.get(calls(tenant), params={"StartTime>": written})).status_code == 200
