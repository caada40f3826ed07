"""Secrets are redacted in every encoding in which Twilio, a proxy or a log may repeat them."""

import html
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.security.redaction import SecretRedactor, has_too_many_userinfos, mask_userinfo, redact, secrets_in_text
from app.twilio.schemas import Credential
from app.twilio.secrets import authorization_header, redact_document, secrets_of_call_request, secrets_of_fields

SECRET = "pl4nted/s%cr=t &<\"'>é+~"
SPELLINGS = {
    "as it is": SECRET,
    "quote": quote(SECRET),
    "quote of everything": quote(SECRET, safe=""),
    "quote_plus": quote_plus(SECRET),
    "lower-case hex": re.sub("%..", lambda escape: escape[0].lower(), quote(SECRET, safe="")),
    "HTML": html.escape(SECRET),
    "HTML without quotes": html.escape(SECRET, quote=False),
    "JSON": json.dumps(SECRET)[1:-1],
    "JSON in UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "JSON with escaped slashes": json.dumps(SECRET)[1:-1].replace("/", r"\/"),
}


@pytest.fixture(scope="module")
def credential() -> Credential:
    return Credential("AC" + "1" * 32, "AC" + "1" * 32, SecretStr("pl4nted-t0ken"))


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_each_spelling_is_redacted(spelling: str) -> None:
    assert redact(f"before{spelling}after", SecretRedactor([SECRET])) == "before***after"


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=4).filter(lambda text: "*" not in text))
def test_no_secret_survives_a_form_or_json(secret: str) -> None:
    secrets = SecretRedactor([secret])
    for echo in (
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        html.escape(secret),
    ):
        assert echo not in redact(f"x{echo}x", secrets).replace("***", "")


def test_the_value_of_the_basic_header_is_redacted(credential: Credential) -> None:
    redacted = redact(
        f"Authorization: {authorization_header(credential)} of {credential.username}", secrets_of_call_request(credential, {})
    )
    assert authorization_header(credential).removeprefix("Basic ").rstrip("=") not in redacted
    assert credential.username in redacted


@pytest.mark.parametrize(
    "text",
    [
        "https://us3r:pl4nted-p4ss@www.example.com/a?b=c",
        "HTTPS://us3r:pl4nted-p4ss@example.com",
        "wss://us3r:pl4nted-p4ss@[2001:db8::1]:1/",
        "<Play>https://us3r:pl4nted-p4ss@example.com/a.mp3</Play>",
        "https://example.com/?next=http://us3r:pl4nted-p4ss@example.org/",
        "http://us3r:pl4nted-p4ss@[x@y",
        "https://us3r:pl4nted-p4ss?#@example.com",
        "https://us3r:pl4nted-p4ss@example.com?mail=kate@example.com",
        "<Play>https://us3r:pl4nted-p4ss?#@example.com</Play>",
    ],
)
def test_users_and_passwords_in_urls_are_redacted(text: str, credential: Credential) -> None:
    shown = mask_userinfo(text)
    assert "us3r" not in shown
    assert "pl4nted" not in shown
    secrets = secrets_of_call_request(credential, {"url": text})
    for echo in ("us3r", "pl4nted-p4ss", "us3r:pl4nted-p4ss", b64encode(b"us3r:pl4nted-p4ss").decode().rstrip("="), text):
        for redacted in (redact(echo, secrets), redact(echo, secrets_of_fields(credential, [("Url", text)]))):
            assert "us3r" not in redacted
            assert "pl4nted" not in redacted


@pytest.mark.parametrize(
    "odd", ["'", '"', "<", ">", '">', "'>", "\u00a0", "\u3000", "\x85", "\u2028", "&", "@", "[", "\\", "<é>"]
)
def test_a_user_and_a_password_in_the_url_of_a_parameter_may_contain_any_character(odd: str) -> None:
    for userinfo in (f"us3r:pl4nted{odd}p4ss", f"us3r{odd}name:p4ss"):
        url = f"https://{userinfo}@example.com:8080/x?a=b"
        assert mask_userinfo(url) == "https://***@example.com:8080/x?a=b"
        user, _, password = userinfo.partition(":")
        assert {user, password} <= set(secrets_in_text(url))


@pytest.mark.parametrize("odd", ["'", '"', "&apos;", "&quot;", "&#39;", "&lt;", "&amp;", ">", "\u00a0", "\u3000", "\x85", "@"])
def test_a_password_in_twiml_may_contain_any_character_that_xml_allows(odd: str) -> None:
    password = f"pl4nted{odd}p4ss"
    for twiml in (
        '<Response><Play loop="2">https://{}@example.com/a.mp3</Play><Say>kate@example.com</Say></Response>',
        "<Response><Play>https://{}@example.com</Play><Say>kate@example.com</Say></Response>",
        '<Response><Connect action="https://{}@example.com"><Stream name="kate@example.com"/></Connect></Response>',
        '<Dial action="https://{}@example.com"><Sip>kate@example.com</Sip></Dial>',
        '<Stream url="wss://{}@example.com:1/" name="kate@example.com"/>',
        '<Stream url="wss://example.com" statusCallback="https://{}@example.com"/>',
        '<Response><Dial action="https://example.com"><Sip>sip:kate@example.com</Sip></Dial><Play>https://{}@h</Play></Response>',
    ):
        text = twiml.format(f"us3r:{password}")
        assert mask_userinfo(text) == twiml.format("***")
        assert {"us3r", password, html.unescape(password)} <= set(secrets_in_text(text))


@pytest.mark.parametrize(
    ("twiml", "masked"),
    [
        ('<Sip username="us3r" password="pl4nted">sip:k@h</Sip>', '<Sip username="***" password="***">sip:k@h</Sip>'),
        ("<Sip\n\tpassword = 'pl4nted' username='us3r'/>", "<Sip\n\tpassword = '***' username='***'/>"),
        ('<x:SIP url="a>b" x:PassWord="pl4nted">', '<x:SIP url="a>b" x:PassWord="***">'),
        ('<Sip url="password=" password="pl4nted">', '<Sip url="password=" password="***">'),
        ('<Sip bad password="pl4nted" username="us3r">', '<Sip bad password="***" username="***">'),
        ("<Sip>sip:kate:pl4nted@example.com</Sip>", "<Sip>sip:kate:***@example.com</Sip>"),
        ("<Sip>SIPS:kate:pl4nted@h:5061;transport=tls?x=y</Sip>", "<Sip>SIPS:kate:***@h:5061;transport=tls?x=y</Sip>"),
        ("<Sip> sip:kate:pl4/nt@ed@example.com </Sip>", "<Sip> sip:kate:***@example.com </Sip>"),
        ("<Sip>sip:a@h,sip:kate:pl4nted@h</Sip>", "<Sip>sip:a@h,sip:kate:***@h</Sip>"),
        ('<Sip password="https://us3r:pl4nted@h/x">', '<Sip password="***">'),
    ],
)
def test_sip_users_and_passwords_in_twiml_are_masked(twiml: str, masked: str) -> None:
    assert mask_userinfo(twiml) == masked


def test_sip_passwords_in_twiml_are_redacted_as_written_and_without_escapes(credential: Credential) -> None:
    twiml = '<Sip username="us&quot;3r" password="pl4&amp;nted">sip:kate:pl4%2Fnt3d@example.com</Sip>'
    secrets = secrets_of_call_request(credential, {"twiml": twiml})
    for echo in (twiml, 'us"3r', "us&quot;3r", "pl4&nted", "pl4&amp;nted", "pl4%2Fnt3d", "pl4/nt3d", "pl4%26nted"):
        redacted = redact(echo, secrets)
        assert "3r" not in redacted
        assert "pl4" not in redacted


@pytest.mark.parametrize(
    "text",
    [
        "sip:kate@example.com",
        "<Sip>sip:kate@example.com:5060;transport=tls?x=y</Sip>",
        "<Sip>sip:example.com:5060</Sip>",
        '<Sip password="" statusCallback="https://example.com/">sip:kate@example.com</Sip>',
        '<Sipper password="x"/><Conference password="x"/>',
        "<Say>gossip:a:b@c</Say>",
    ],
)
def test_twiml_without_sip_passwords_stays(text: str) -> None:
    assert mask_userinfo(text) == text
    assert list(secrets_in_text(text)) == []


@pytest.mark.parametrize(
    "period", ["<sip ", "<sip a", "<sip '", '<sip "', "sip:", "sip:a:", "sip:a@", "a='", "a ", "<a:", "password", "\"'"]
)
def test_long_twiml_takes_linear_time(period: str) -> None:
    long = period * 20_000
    for text in (long, f"<sip {long}", f"<sip a={long}", f"<sip>sip:a:{long}", f"<sip>sip:a:{long} @"):
        mask_userinfo(text)
        has_too_many_userinfos(text)


def test_a_dial_may_have_ten_sip_addresses_with_passwords() -> None:
    addresses = [f'<Sip username="us3r{number}" password="p4ss{number}">sip:kate@h</Sip>' for number in range(11)]
    assert not has_too_many_userinfos("".join(addresses[:10]))
    assert has_too_many_userinfos("".join(addresses))


@pytest.mark.parametrize("end", ["?", "#", "?#"])
@pytest.mark.parametrize("digits", ["65536", "70000", "99999", "1234567"])
def test_a_password_that_begins_with_digits_is_not_taken_for_a_port(digits: str, end: str) -> None:
    text = f"<Play>https://us3r:{digits}{end}x@h.example/a.mp3</Play>"
    assert mask_userinfo(text) == "<Play>https://***@h.example/a.mp3</Play>"
    assert {"us3r", digits, f"{digits}{end}x"} <= set(secrets_in_text(text))


@pytest.mark.parametrize("port", ["", ":", ":0", ":00080", ":9", ":9999", ":60000", ":64999", ":65499", ":65529", ":65535"])
def test_an_at_sign_after_a_host_and_port_belongs_to_no_password(port: str) -> None:
    for text in (f"<Play>https://h.example{port}?mail=a@b</Play>", f"https://h.example{port}#a@b"):
        assert mask_userinfo(text) == text


def test_an_invalid_url_is_masked_up_to_its_last_at_sign() -> None:
    assert mask_userinfo("https://us3r:p@ss:w?rd@example.com/a@b") == "https://***@example.com/a@b"


def test_a_long_text_takes_linear_time() -> None:
    # With quadratic time, this test would not end.
    text = f"https://h.example/{'a' * 2_000_000}?m=a@b"
    assert mask_userinfo(text) == text
    assert list(secrets_in_text(text)) == []


@pytest.mark.parametrize("period", ["a", "@", "a@", "a:1@", "a?@", "[1]@", "[", "'>", "&quot;", "https://", "https://a&"])
def test_a_long_userinfo_takes_linear_time(period: str) -> None:
    long = period * 200_000
    for text in (f"https://{long}", f"<a>https://{long}", f"<a>https://{long}@b c</a>", f"<a>https://{long} a@b</a>"):
        mask_userinfo(text)
        has_too_many_userinfos(text)


@pytest.mark.parametrize("end", ["@", "?#@", ""])
def test_a_long_password_is_refused_wherever_parsers_let_it_end(end: str) -> None:
    assert has_too_many_userinfos(f"https://us3r:p{end}{'x' * 200}:@h.example:port/")
    assert not has_too_many_userinfos(f"https://h.example?q={'x' * 200}@b")


def test_an_escaped_password_is_redacted() -> None:
    found = set(secrets_in_text("<Redirect>https://us3r:a%26b&amp;c@example.com/</Redirect>"))
    assert {"a&b&c", "a%26b&amp;c", "a%26b&c"} <= found


def test_a_password_with_a_space_that_is_not_ascii_is_found() -> None:
    assert "a\N{NO-BREAK SPACE}b" in set(secrets_in_text("https://us3r:a\N{NO-BREAK SPACE}b@example.com/"))


def test_urls_without_userinfo_are_kept() -> None:
    for text in (
        "https://example.com/a@b",
        "https://ivr.example.com?agent=kate@example.com",
        "https://ivr.example.com:8080#kate@example.com",
        "https://[2001:db8::1]?agent=kate@example.com",
        "https://ivr_1.bücher.example?agent=kate@example.com",
        "<Redirect>https://ivr.example.com?agent=kate@example.com</Redirect>",
        "<Redirect>https://ivr.example.com</Redirect><Say>kate@example.com</Say>",
        '<Connect action="https://ivr.example.com:8080"><Parameter value="kate@example.com"/></Connect>',
        '<Dial action="https://ivr.example.com">kate@example.com</Dial>',
        "<Dial action='https://ivr.example.com'>kate@example.com</Dial>",
        '{"a":"https://ivr.example.com","b":"kate@example.com","c":["https://ivr.example.com"],"d":"a@b"}',
        "{&quot;a&quot;:&quot;https://ivr.example.com&quot;,&quot;b&quot;:&quot;kate@example.com&quot;}",
        "see https://ivr.example.com, or ask kate@example.com",
        "sip:kate@example.com",
        "mailto:a@b",
        "",
        "a://",
        "kate@example.com",
    ):
        assert mask_userinfo(text) == text
        assert list(secrets_in_text(text)) == []


@pytest.mark.parametrize("secret", ["a", "sid", "queued", "1234", "CA", "status", "00000000", "e"])
def test_a_short_secret_does_not_redact_sids_statuses_or_names(secret: str, credential: Credential) -> None:
    document = {"sid": "CA" + "0" * 28 + "1234", "status": "queued", "nested": [{"sid": "RE" + "0" * 32}], "a": None, "n": 1}
    assert redact_document(document, secrets_of_call_request(credential, {"sip_auth_password": secret})) == document
    assert redact(f"bad: {secret}", secrets_of_call_request(credential, {"sip_auth_password": secret})) == "bad: ***"


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            {"url": f"https://{user}:pw@www.example.com/"}
            for user in ("user", "api", "twilio", "docs", "outbound", "Recordings")
        ),
        *({"sip_auth_password": password} for password in ("2010", "1000", "kate", "4000", "Aug", "0075", "machine")),
    ],
    ids=str,
)
def test_what_cannot_repeat_a_secret_is_kept(parameters: dict[str, str], credential: Credential) -> None:
    call = f"/2010-04-01/Accounts/AC{'1' * 32}/Calls/CA{'2' * 32}"
    document = {
        "sid": "CA" + "2" * 28 + "1000",
        "to": "sip:1000@pbx.example.com",
        "to_formatted": "sip:1000@pbx.example.com",
        "from": "kate",
        "status": "queued",
        "direction": "outbound-api",
        "api_version": "2010-04-01",
        "uri": f"{call}.json",
        "date_created": "Wed, 18 Aug 2010 20:01:40 +0000",
        "duration": "1000",
        "queue_time": "4000",
        "price": "-0.00750",
        "answered_by": "machine_start",
        "more_info": "https://www.twilio.com/docs/api/errors/21000",
        "subresource_uris": {"user_defined_messages": f"{call}/UserDefinedMessages.json"},
    }
    secrets = secrets_of_call_request(credential, parameters)
    addresses = ["sip:1000@PBX.example.com:5060;transport=tls", "kate"]
    assert redact_document(document, secrets, addresses) == document
    for secret in parameters.values():
        echo = {"annotation": f"bad: {secret}", "to": f"sip:{secret}@other.example.com", "more_info": f"{secret} is bad"}
        assert secret not in str(redact_document(echo, secrets, addresses))


def test_documents_are_redacted_throughout(credential: Credential) -> None:
    document = {"text": f"x {SECRET}", "list": [{"deep": quote_plus(SECRET)}], f"SipAuthPassword={SECRET}": 1}
    redacted = str(redact_document(document, secrets_of_call_request(credential, {"sip_auth_password": SECRET})))
    assert "pl4nted" not in redacted
    assert SecretRedactor([SECRET]).may_occur_in(json.dumps(document).encode())
    assert not SecretRedactor([SECRET]).may_occur_in(b"{}")
    assert "pl4nted" not in repr(SecretRedactor([SECRET]))


async def redacted_in_pieces(whole: bytes, size: int, secrets: SecretRedactor) -> bytes:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    return b"".join([piece async for piece in secrets.redact_stream(pieces())])


@pytest.mark.parametrize("size", range(1, 30))
async def test_a_secret_that_is_the_start_of_another_is_redacted_in_a_stream(size: int) -> None:
    secrets = SecretRedactor(["pl4nted", "pl4nted-t0ken", "nted-other"])
    whole = b'{"a":"pl4nted","b":"pl4nted-t0ken","c":"pl4nted-t0ke","d":"pl4nted-other","e":"pl4nte"}pl4nted'
    expected = b'{"a":"***","b":"***","c":"***-t0ke","d":"***-other","e":"pl4nte"}***'
    assert await redacted_in_pieces(whole, size, secrets) == expected


@pytest.mark.parametrize("size", range(1, 20))
async def test_a_short_secret_is_redacted_in_a_stream_as_a_whole_word_only(size: int) -> None:
    whole = b'{"e":"me","them":"e, e-me","status":"completed","m":"me'
    expected = b'{"***":"***","them":"***, ***-***","status":"completed","m":"***'
    assert await redacted_in_pieces(whole, size, SecretRedactor(["e", "me"])) == expected


async def test_a_long_stream_with_many_secrets_takes_linear_time() -> None:
    # With quadratic time, this test would not end.
    secrets = SecretRedactor(["e", *(f"s3cret-{number}" for number in range(100))])
    whole = b"e " * 1_000_000
    assert await redacted_in_pieces(whole, 300_000, secrets) == b"*** " * 1_000_000


async def test_many_and_long_secrets_do_not_slow_down_a_stream_of_small_chunks() -> None:
    # With time for each secret and each end of a chunk, this test would take minutes.
    secrets = SecretRedactor(
        [*(f"s3cret-{number}" for number in range(2000)), *(f"{number}{'x' * 8000}" for number in range(100))]
    )
    whole = b"s3cre " * 200_000 + b"s3cret-1999" + b"s3cre " * 10
    assert await redacted_in_pieces(whole, 1000, secrets) == whole.replace(b"s3cret-1999", b"***")


@given(
    st.lists(st.text("ab-", min_size=1, max_size=7), min_size=1, max_size=6),
    st.text("ab-", max_size=60),
    st.integers(min_value=1, max_value=20),
)
async def test_the_longest_secret_at_each_place_is_redacted_in_a_stream(secrets: list[str], text: str, size: int) -> None:
    spellings = sorted(secrets, key=len, reverse=True)
    pattern = "|".join(spelling if len(spelling) >= 4 else rf"(?<!\w){spelling}(?!\w)" for spelling in spellings)
    expected = re.sub(pattern, "***", text)
    assert (await redacted_in_pieces(text.encode(), size, SecretRedactor(secrets))).decode() == expected


def test_an_escape_of_thousands_of_digits_is_left_alone() -> None:
    assert "us3r" in set(secrets_in_text(f"https://us3r:p@h/?&#{'1' * 5000};"))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_a_stream_is_redacted_wherever_it_is_cut(size: int, credential: Credential) -> None:
    whole = json.dumps(
        {"a": f"token pl4nted-t0ken, {authorization_header(credential)}", "b": "z" * 50, "c": "pl4nted-t0ken"}
    ).encode()

    redacted = await redacted_in_pieces(whole, size, secrets_of_call_request(credential, {}))
    assert b"pl4nted" not in redacted
    assert b64encode(b"AC111") not in redacted
    assert json.loads(redacted)["b"] == "z" * 50
