"""Callgate's promises hold on Twilio's paths: at most one call, correct outcomes, separate tenants, Twilio's errors."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.clients import http_client
from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import created, created_after_release, error, hang, running_upstream

FORM = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}


def calls(tenant: Tenant, rest: str = ".json") -> str:
    return f"/2010-04-01/Accounts/{tenant.account_sid}/Calls{rest}"


async def create(tenant: Tenant, *, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await tenant.http.post(calls(tenant), data=FORM | fields, headers=headers)


def error_code_of(response: httpx.Response) -> tuple[int, int]:
    """Returns status and code, and checks that the body has exactly Twilio's four members."""
    body = response.json()
    assert body.keys() == {"code", "message", "more_info", "status"}
    assert body["status"] == response.status_code
    assert body["more_info"]
    return response.status_code, body["code"]


async def test_an_idempotency_key_places_one_call_across_both_apis(gateway: Gateway) -> None:
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
        assert error_code_of(other) == (422, 900003)
        assert other.headers["Callgate-Call-Id"] == first.headers["Callgate-Call-Id"]
        assert "the header Callgate-Call-Id" in other.json()["message"]
        assert len(upstream.posts) == 1
    twice = await tenant.http.post(calls(tenant), data=FORM, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert error_code_of(twice) == (400, 20422)


@pytest.mark.parametrize(
    ("query", "more", "code"),
    [
        ("", [("NewParameter", "x")], 20001),
        ("", [("From", "Jill")], 20422),
        ("?Timeout=30", [], 20001),
    ],
)
async def test_a_request_that_is_refused_never_hides_the_call_of_its_key(
    gateway: Gateway, query: str, more: list[tuple[str, str]], code: int
) -> None:
    async def post(key: str) -> httpx.Response:
        form = urlencode([*FORM.items(), *more])
        headers = {"Idempotency-Key": key, "Content-Type": "application/x-www-form-urlencoded"}
        return await tenant.http.post(calls(tenant) + query, content=form, headers=headers)

    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = await create(tenant, key="k")
        refused, new = await post("k"), await post("new")
        assert error_code_of(refused) == (422, 900003)
        assert refused.headers["Callgate-Call-Id"] == first.headers["Callgate-Call-Id"]
        assert error_code_of(new) == (400, code)
        assert len(upstream.posts) == 1


async def test_a_repeated_key_waits_for_the_first_request(database_url: str) -> None:
    patient = settings_for(database_url, **LONG_TIMEOUTS)
    async with running_upstream(created_after_release()) as upstream, running_gateway(patient) as gateway:
        tenant = await gateway.add_tenant(upstream.url)
        creating = asyncio.create_task(create(tenant, key="k"))
        await upstream.wait_for_post()
        early = await create(tenant, key="k")
        assert (error_code_of(early), early.headers["Retry-After"]) == ((409, 900002), "1")
        upstream.released.set()
        assert (await creating).status_code == 201


async def test_an_unknown_outcome_is_409_on_every_retry(gateway: Gateway) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for _ in range(2):
            unknown = await create(tenant, key="k")
            assert error_code_of(unknown) == (409, 900001)
            record = (await tenant.http.get(f"/v1/calls/{unknown.headers['Callgate-Call-Id']}")).json()
            assert record["execution"] == "unknown"
        assert len(upstream.posts) == 1


async def test_warnings_are_in_headers(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answer = await create(tenant, To="sip:kate@example.com;transport=tls", Twiml="<Response/>")
        warnings = answer.headers.get_list("Callgate-Warning")
        assert [warning.partition(":")[0] for warning in warnings] == ["To MEDIA_NOT_ENCRYPTED", "Twiml ignored"]


async def test_an_overloaded_process_answers_in_twilios_shape_and_dials_nothing(database_url: str) -> None:
    async with running_upstream(hang) as upstream, running_gateway(settings_for(database_url, max_in_flight=1)) as small:
        tenant = await small.add_tenant(upstream.url)
        creating = asyncio.create_task(create(tenant))
        await upstream.wait_for_post()
        for path in (".json", ""):
            refused = await tenant.http.post(calls(tenant, path), content=b"unread", headers={"Authorization": "unread"})
            assert (error_code_of(refused), refused.headers["Retry-After"]) == ((503, 20503), "1")
        assert (await tenant.http.get(calls(tenant))).status_code == 200
        upstream.released.set()
        assert error_code_of(await creating) == (409, 900001)
        assert len(upstream.posts) == 1


async def test_a_request_timeout_is_never_reported_as_not_started(database_url: str) -> None:
    async with running_upstream(hang) as upstream:
        settings = settings_for(database_url, **LONG_TIMEOUTS)
        async with httpx.AsyncClient(timeout=30) as http:
            async with running_gateway(settings, grace=1) as stopping:
                tenant = await stopping.add_tenant(upstream.url)
                url, headers = stopping.url + calls(tenant), tenant.http.headers
                creating = asyncio.create_task(http.post(url, data=FORM, headers=headers))
                await upstream.wait_for_post()
                asyncio.get_running_loop().call_later(2, upstream.released.set)
            assert error_code_of(await creating) == (409, 900001)


@pytest.mark.parametrize(
    ("upstream_answer", "expected", "message"),
    [
        (error(400, 21215, "Not to there"), (400, 21215), "Not to there"),
        (error(404, 20404, "No account"), (404, 20404), "No account"),
        (error(401, 20003), (502, 900009), "Twilio refused every active credential"),
        (error(429, 20429), (429, 20429), "no attempt was processed"),
        (error(500, 20500), (409, 900001), "second call"),
        (error(503, 20503), (409, 900001), "second call"),
    ],
)
async def test_twilios_refusals_keep_twilios_code_and_message(
    gateway: Gateway, upstream_answer: Any, expected: tuple[int, int], message: str
) -> None:
    async with running_upstream(upstream_answer) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        refused = await create(tenant)
        assert error_code_of(refused) == expected
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
async def test_invalid_requests_are_refused_and_not_sent(
    gateway: Gateway, request_: dict[str, Any], expected: tuple[int, int]
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert error_code_of(await tenant.http.post(calls(tenant), **request_)) == expected
        assert upstream.received == []


async def test_an_ampersand_inside_to_that_is_not_encoded_is_explained(gateway: Gateway) -> None:
    query = "From=Jack&To=sip:kate@example.com?X-A=foo&X-B=bar"
    explanation = "X-B: is not a parameter of this request: if it belongs to To, send the & before it as %26."
    tenant = await gateway.add_tenant()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for response in (
        await tenant.http.post(calls(tenant), content=query, headers=headers),
        await tenant.http.get(calls(tenant, f".json?{query}")),
    ):
        assert error_code_of(response) == (400, 20001)
        assert response.json()["message"] == explanation


async def test_empty_parameters_count_as_not_given(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await create(tenant, StatusCallback="", Timeout="", Record="False")).status_code == 201
        assert dict(upstream.posts[0].form) == FORM | {"Record": "false"}


@pytest.mark.parametrize(
    "accept",
    [
        ("application/xml",),
        ("text/*, application/xml;q=0.9",),
        ("application/json;q=0, */*",),
        ("*/*", "Application/JSON; Q=0.000"),
        ("application/*;q=0.0, */*;q=0.1",),
        ("application/jsonx",),
    ],
)
async def test_paths_without_json_suffix_refuse_clients_that_accept_no_json(gateway: Gateway, accept: tuple[str, ...]) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        refused = await _post_accepting(tenant, *accept)
        assert error_code_of(refused) == (406, 900006)
        assert ".json" in refused.json()["message"]
        assert upstream.received == []


@pytest.mark.parametrize(
    "accept",
    [
        (),
        ("",),
        ("*/*",),
        ("application/*",),
        ("text/xml, Application/JSON;charset=utf-8;q=0.5",),
        ("application/xml", "application/json"),
        ("application/json;q=0.001, */*;q=0",),
    ],
)
async def test_paths_without_json_suffix_answer_clients_that_accept_json(gateway: Gateway, accept: tuple[str, ...]) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answered = await _post_accepting(tenant, *accept)
        assert (answered.status_code, answered.headers["Content-Type"]) == (201, "application/json")


async def _post_accepting(tenant: Tenant, *accept: str) -> httpx.Response:
    """Creates a call on the path without `.json`, with these lines of the header Accept and no others."""
    request = tenant.http.build_request("POST", calls(tenant, ""), data=FORM)
    del request.headers["Accept"]
    request.headers = httpx.Headers([*request.headers.multi_items(), *(("Accept", line) for line in accept)])
    return await tenant.http.send(request)


@pytest.mark.parametrize("name", ["StartTime", "StartTime>", "EndTime", "EndTime>"])
async def test_filters_on_times_find_calls_that_waited_as_long_as_possible(gateway: Gateway, name: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = await create(tenant)
    requested_at = datetime.now(UTC)
    # As the redial of a call that was scheduled seven days ahead, of which every step takes as long as it may.
    dialled_at = requested_at + timedelta(days=1) + timedelta(days=7)
    started_at = dialled_at + timedelta(days=1)
    ended_at = started_at + timedelta(days=1)
    await gateway.database.fetch(
        "UPDATE call SET start_time = $2, end_time = $3 WHERE sid = $1", call.json()["sid"], started_at, ended_at
    )
    day = (started_at if name.startswith("Start") else ended_at).date()
    found = await tenant.http.get(calls(tenant), params={name: day.isoformat()})
    assert [each["sid"] for each in found.json()["calls"]] == [call.json()["sid"]]


async def test_unknown_paths_are_20404_and_unknown_methods_20004(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    for path in ("/2010-04-01", "/2010-04-01/Accounts.json", calls(tenant, "/CA1/Nothing.json"), calls(tenant, "s.json")):
        assert error_code_of(await tenant.http.get(path)) == (404, 20404)
    assert error_code_of(await tenant.http.put(calls(tenant))) == (405, 20004)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_authentication_accepts_each_documented_user_and_refuses_others(gateway: Gateway) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    key_id = (await gateway.tenants.list_keys(tenant.id))[0].id
    prefix = tenant.key.rpartition("_")[0] if tenant.key.count("_") == 2 else "_".join(tenant.key.split("_")[:2])
    accepted = [
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
        "Basic \xe9",
        basic(tenant.account_sid, "wrong"),
        basic(tenant.account_sid, tenant.auth_token),
        basic(tenant.account_sid, "\0" + tenant.key),
        basic(tenant.account_sid, other.key + "x"),
        basic("AC1", tenant.key),
        basic("", tenant.key),
        basic(prefix + "x", tenant.key),
        basic(tenant.account_sid, "k" * 5000),
    ]
    async with http_client(base_url=gateway.url) as http:
        for authorization in accepted:
            assert (await http.get(calls(tenant), headers={"Authorization": authorization})).status_code == 200
        for authorization in refused:
            headers: dict[bytes, bytes] = {b"Authorization": authorization.encode("latin-1")} if authorization else {}
            answer = await http.get(calls(tenant), headers=headers)
            assert error_code_of(answer) == (401, 20003), authorization
            assert "as the password" in answer.json()["message"]
            assert answer.headers["WWW-Authenticate"].startswith("Basic")
        await gateway.tenants.revoke_key(tenant.key)
        gateway.invalidate_cache()
        async with asyncio.timeout(30):
            while (answer := await http.get(calls(tenant), headers={"Authorization": accepted[0]})).is_success:
                await asyncio.sleep(0.05)
        assert error_code_of(answer) == (401, 20003)


CALL_OPERATIONS: list[tuple[str, str, dict[str, str] | None]] = [
    ("POST", ".json", FORM),
    ("GET", ".json", None),
    ("GET", "/{sid}.json", None),
    ("POST", "/{sid}.json", {"Status": "completed"}),
    ("DELETE", "/{sid}.json", None),
]


@pytest.mark.parametrize(("method", "rest", "form"), CALL_OPERATIONS)
async def test_a_tenant_cannot_reach_another_tenants_calls(
    gateway: Gateway, method: str, rest: str, form: dict[str, str] | None
) -> None:
    """Tries, as another tenant: the owner's account, an account of no tenant, and the owner's call under its own account."""
    async with running_upstream(created()) as theirs, running_upstream(created()) as upstream:
        owner, stranger = await gateway.add_tenant(theirs.url), await gateway.add_tenant(upstream.url)
        sid = (await create(owner)).json()["sid"]
        request_count = len(theirs.received)
        path = rest.replace("{sid}", sid)
        nobody = f"/2010-04-01/Accounts/AC{'f' * 32}/Calls{path}"
        urls = [calls(owner, path), nobody, *([calls(stranger, path)] if "{sid}" in rest else [])]
        for url in urls:
            for authorization in (f"Bearer {stranger.key}", basic(stranger.account_sid, stranger.key)):
                headers = {"Authorization": authorization}
                refused = await stranger.http.request(method, url, data=form, headers=headers)
                assert error_code_of(refused) in ((404, 20404), (401, 20003)), (method, url)
                assert FORM["To"] not in refused.text
        assert (len(theirs.received), upstream.received) == (request_count, [])
        if "{sid}" not in rest:
            own = await stranger.http.request(method, calls(stranger, path), data=form)
            assert own.is_success
            assert sid not in own.text
        else:
            await owner.http.request(method, calls(owner, path), data=form)
            assert len(theirs.received) == request_count + 1


async def test_a_tenants_second_account_shows_its_own_calls_only(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        second = "AC" + "e" * 32
        await gateway.tenants.add_credential(
            tenant.id, account_sid=second, secret="s" * 32, key_sid=None, base_url=upstream.url
        )
        gateway.invalidate_cache()
        sid = (await create(tenant)).json()["sid"]
        path = f"/2010-04-01/Accounts/{second}/Calls"
        assert (await tenant.http.get(f"{path}.json")).json()["calls"] == []
        assert error_code_of(await tenant.http.get(f"{path}/{sid}.json")) == (404, 20404)
        other = await tenant.http.post(f"{path}.json", data=FORM)
        assert other.json()["account_sid"] == second
        assert upstream.posts[-1].credentials == (second, "s" * 32)


async def test_a_fetch_without_a_usable_answer_of_twilio_gives_the_record_with_its_age_and_the_reason(gateway: Gateway) -> None:
    async with running_upstream(created(), error(429, 20429), error(500, 20500)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        path = calls(tenant, f"/{(await create(tenant)).json()['sid']}.json")
        answers = [await tenant.http.get(path) for _ in range(2)]
    answers.append(await tenant.http.get(path))
    for answer, reason in zip(answers, ("throttled", "status_500", "connect_error"), strict=True):
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        assert answer.headers["Warning"].startswith(
            f'110 callgate "Twilio gave no usable answer ({reason}); the last update is '
        )
        assert 0 <= int(answer.headers["Age"]) < 60


async def test_a_fetch_with_refused_credentials_is_502(gateway: Gateway) -> None:
    async with running_upstream(created(), error(401, 20003)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        assert error_code_of(await tenant.http.get(calls(tenant, f"/{sid}.json"))) == (502, 900009)


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
async def test_lists_refuse_invalid_parameters(gateway: Gateway, query: str, expected: tuple[int, int]) -> None:
    tenant = await gateway.add_tenant()
    assert error_code_of(await tenant.http.get(f"{calls(tenant)}?{query}")) == expected


@pytest.mark.parametrize(
    "written", ["2026-11-24", "2026-11-24T23:59:59Z", "11/24/2026 22:05:25 MST", "2026-11-25T01:00:00+02:00"]
)
async def test_dates_are_accepted_in_each_format_that_twilio_documents(gateway: Gateway, written: str) -> None:
    tenant = await gateway.add_tenant()
    assert (await tenant.http.get(calls(tenant), params={"StartTime>": written})).status_code == 200
