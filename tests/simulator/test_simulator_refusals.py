"""Tests which creations, updates and lists the simulator refuses, with one row of parameters for each reason."""

from typing import Literal

import httpx
import pytest

from simulator.config import SimulatorConfig
from simulator.errors import ERROR_CATALOGUE
from tests.simulator.running import OPEN_SID, plain_client, serve

ACCOUNT_PATH = f"/2010-04-01/Accounts/{OPEN_SID}"

GOOD = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}

REFUSALS = [
    ({"To": ""}, 21201),
    ({"From": ""}, 21213),
    ({"Url": ""}, 21205),
    ({"Url": "/relative.xml"}, 21205),
    ({"Url": "ftp://example.com/a"}, 21205),
    ({"Url": "http://[bad"}, 21205),
    ({"Method": "PUT"}, 21209),
    ({"FallbackMethod": "get"}, 21209),
    ({"StatusCallbackMethod": "PATCH"}, 21209),
    ({"RecordingStatusCallbackMethod": "HEAD"}, 21209),
    ({"FallbackUrl": "nonsense"}, 21200),
    ({"StatusCallback": "nonsense"}, 21200),
    ({"StatusCallback": "https://my_app.example.com/progress"}, 21200),
    ({"SendDigits": "12x"}, 21206),
    ({"SendDigits": "1" * 33}, 21206),
    ({"Timeout": "soon"}, 21208),
    ({"Timeout": "0"}, 21208),
    ({"Timeout": "601"}, 21208),
    ({"TimeLimit": "0"}, 20422),
    ({"To": "kate"}, 21211),
    ({"To": "sip:"}, 21211),
    ({"To": "sips:kate@example.com"}, 21211),
    ({"To": "sip:ka te@example.com"}, 21211),
    ({"To": "sip:kate@exa\nmple.com"}, 21211),
    ({"To": "sip:kate@" + "a" * 246}, 21211),
    ({"To": "+1415", "From": "+14155551212"}, 21217),
    ({"To": "sip:kate@example.com?X-a=" + "b" * 1020}, 21227),
    ({"To": "sip:kate@example.com?X{a}=b"}, 21228),
    ({"To": "sip:kate@example.com?=b"}, 21228),
    ({"To": "sip:kate@example.com?X-a=b c"}, 21229),
    ({"To": "sip:kate@example.com?X-a=%zz"}, 21229),
    ({"From": "Jack Black"}, 21212),
    ({"From": "sip:jack@example.com"}, 21212),
    ({"To": "+14155551212", "From": "Jack"}, 21212),
    ({"ApplicationSid": "AP12"}, 21218),
    ({"SipAuthUsername": "j" * 256, "SipAuthPassword": "p"}, 21221),
    ({"SipAuthUsername": 'ja"ck', "SipAuthPassword": "p"}, 21222),
    ({"SipAuthPassword": "p" * 256}, 21223),
    ({"SipAuthPassword": "p\tp"}, 21224),
    ({"SipAuthUsername": "jack"}, 21225),
    ({"Twiml": "x" * 4001}, 32018),
]

ACCEPTED = [
    {},
    {"To": "sip:kate@" + "a" * 245},
    {"To": "sip:kate@example.com?X-a=" + "b" * 1019},
    {"To": "sip:kate@example.com:5061;transport=tls;secure=true?User-to-User=0A1B%3Bencoding%3Dhex&mycustomheader=foo"},
    {"To": "client:kate"},
    {"To": "+1 (415) 555-1212", "From": "+14155551213"},
    {"Url": "", "Twiml": "x" * 4000},
    {"Url": "", "ApplicationSid": "AP" + "a" * 32, "StatusCallback": "ignored", "Method": "PUT"},
    {"SipAuthUsername": "jack@example.com", "SipAuthPassword": "pass word/#?"},
    {"NoSuchParameter": "ignored"},
    {"Timeout": "600", "SendDigits": "wW12AD#*"},
    {"StatusCallback": "https://example.com/my_app?my=_", "Url": "http://my_app.example.com/"},
]


@pytest.mark.parametrize(("change", "code"), REFUSALS, ids=lambda value: str(value)[:60])
def test_a_refused_creation_names_its_code(
    calls: httpx.Client, control: httpx.Client, change: dict[str, str], code: int
) -> None:
    answer = calls.post("/Calls.json", data=GOOD | change)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (400, code, 400)
    assert problem.keys() == {"code", "message", "more_info", "status"}
    assert problem["more_info"] == f"https://www.twilio.com/docs/errors/{code}"
    entry = control.get("/ledger").json()["entries"][0]
    assert (entry["accepted"], entry["answer_status"], entry["answer_code"]) == (False, 400, code)


@pytest.mark.parametrize("change", ACCEPTED, ids=lambda value: str(value)[:60])
def test_creations_that_are_accepted(calls: httpx.Client, change: dict[str, str]) -> None:
    answer = calls.post("/Calls.json", data=GOOD | change)
    assert answer.status_code == 201, answer.text
    assert answer.json()["to"] == (GOOD | change)["To"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"Status": "ringing"}, 20422),
        ({"Url": "nonsense"}, 21205),
        ({"StatusCallback": "http://my_app:3000/progress"}, 21200),
        ({"Twiml": "x" * 4001}, 32018),
    ],
)
def test_a_refused_update_names_its_code(calls: httpx.Client, body: dict[str, str], code: int) -> None:
    sid = calls.post("/Calls.json", data=GOOD).json()["sid"]
    answer = calls.post(f"/Calls/{sid}.json", data=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("PageSize=1001", 20007),
        ("PageSize=0", 20422),
        ("PageSize=many", 20422),
        ("Page=-1", 20422),
        ("PageToken=PACA00", 20422),
        ("Status=initiated", 20422),
        ("StartTime%3E=yesterday", 20422),
    ],
)
def test_a_refused_list_names_its_code(calls: httpx.Client, query: str, code: int) -> None:
    answer = calls.get(f"/Calls.json?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize(("code", "status"), [(21220, 400), (20404, 404)])
def test_ending_an_ended_call_is_refused_with_the_configured_code(code: Literal[21220, 20404], status: int) -> None:
    config = SimulatorConfig(open_mode=True, ended_call_code=code)
    with serve(config) as url, plain_client(f"{url}{ACCOUNT_PATH}", auth=(OPEN_SID, "any")) as client:
        sid = client.post("/Calls.json", data=GOOD).json()["sid"]
        answers = [client.post(f"/Calls/{sid}.json", data={"Status": "completed"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, status]
        assert answers[1].json()["code"] == code
        redirected = client.post(f"/Calls/{sid}.json", data={"Url": GOOD["Url"]})
        assert (redirected.status_code, redirected.json()["code"]) == (400, 21220)


def test_every_refusal_of_a_creation_has_a_row() -> None:
    elsewhere = {10004, 22005, 20001, 20003, 20004, 20007, 20009, 20404, 20406, 21220}
    faults = {20403, 20429, 20500, 20503, 21215}
    assert {code for _, code in REFUSALS} == ERROR_CATALOGUE.keys() - elsewhere - faults
