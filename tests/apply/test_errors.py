"""Every error in a file is reported in one line that names the file, the line and the member, and shows no value."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from app.apply.document import MAX_FILE_BYTES, DocumentInvalid, FileProblem, read_document
from app.apply.schemas import declaration_json_schema
from app.apply.validation import validate_declaration
from app.cli import app
from app.deliveries.addresses import AllowList
from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY
from tests.support.upstream import refused_url

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "deploy" / "components" / "apply" / "tenants.schema.json"
EXAMPLE = ROOT / "deploy" / "overlays" / "declared" / "tenants.yaml"
SID, KEY = "AC" + "1" * 32, "SK" + "1" * 32
PLANTED = "pl4nted5ecret"
ISSUER, BACKEND = "https://cluster.example.com", "namespace: a, service_account: b"
SECRET_ADVICE = "a secret is written as {env: NAME} or {file: PATH}, never as its value"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


class Refused(NamedTuple):
    """A file that is refused, the line and the member that the error names, and the beginning of the error's text."""

    file: str
    line: int
    member: str
    text: str


def tenant(*lines: str) -> str:
    """Returns a file with one tenant. `lines` are its members from line 3 on."""
    return "\n".join(["tenants:", "  - id: shop", *(f"    {line}" for line in lines)]) + "\n"


def account(*lines: str) -> str:
    """Returns a file with one tenant and one account. `lines` are the account's members from line 5 on."""
    return tenant("accounts:", f"  - account_sid: {SID}", *(f"    {line}" for line in lines))


TENANT, ACCOUNT = "tenants[0]", "tenants[0].accounts[0]"
AUTH_TOKEN, PACE = f"{ACCOUNT}.auth_token", f"{ACCOUNT}.pace"
RATE = "must be a number of more than 0, at most 1000, with at most 3 decimals"
ENV, FILE = f"{AUTH_TOKEN}.env", f"{AUTH_TOKEN}.file"
SYNTAX = [
    Refused("", 1, "", "the file is empty: it needs a list of `tenants`"),
    Refused("# nothing\n---\n", 1, "", "the file is empty"),
    Refused("tenants: []\n---\ntenants: []\n", 2, "", "a second document begins: a file has one"),
    Refused("tenants:\n\t- id: shop\n", 2, "", "a tab indents this line: YAML is indented with spaces"),
    Refused("tenants: [\n", 2, "", "this is not valid YAML: "),
    Refused(
        "tenants:\n  - id: 'shop\n", 3, "", "this is not valid YAML: found unexpected end of stream (column 1) in what begins"
    ),
    Refused("tenants:\n  - id: shop: x\n", 2, "", "this is not valid YAML: mapping values are not allowed"),
    Refused('{"tenants": [}', 1, "", "this is not valid YAML: "),
    Refused("tenants: \x07\n", 1, "", "a control character is not allowed"),
    Refused("tenants:\n  - \udcff\n", 2, "", "the file is not UTF-8"),
    Refused("tenants: []\ntenants: []\n", 2, "tenants", "this member is given twice: the first time in line 1"),
    Refused('{\n\t"tenants": [],\n\t"tenants": []\n}', 3, "tenants", "this member is given twice: the first time in line 2"),
    Refused("? [tenants]\n: []\n", 1, "", "the name of a member must be plain text"),
    Refused(f"tenants: {'[' * 30}", 1, "tenants" + "[0]" * 19, "values are nested more than 20 deep"),
    Refused(BOMB, 6, "…[3]", "the file has more than 500000 values, aliases written out"),
    Refused("tenants: &all [*all]\n", 1, "tenants[0]", "this alias (*) has no anchor (&) before it"),
    Refused(account(f"auth_token: *{PLANTED}"), 5, AUTH_TOKEN, "this alias (*) has no anchor (&) before it"),
    Refused(account(f"auth_token: !{PLANTED} x"), 5, AUTH_TOKEN, "tags (!) are not supported"),
    Refused(tenant("<<: {name: Shop}"), 3, TENANT, "merge keys (<<) are not supported"),
    Refused(tenant(f"name: 0x_{PLANTED[:0]}"), 3, f"{TENANT}.name", "this number cannot be read: put text in quotes"),
]
TYPES = [
    Refused("just text\n", 1, "", "must be a mapping"),
    Refused("- id: shop\n", 1, "", "must be a mapping"),
    Refused("{}\n", 1, "tenants", "is missing"),
    Refused("tenants:\n", 1, "tenants", "must be a list"),
    Refused("tenants: {id: shop}\n", 1, "tenants", "must be a list"),
    Refused("tenants:\n  - shop\n", 2, TENANT, "must be a mapping"),
    Refused("tenants:\n  - name: Shop\n", 2, f"{TENANT}.id", "is missing"),
    Refused("tenants:\n  - id: Shop\n", 2, f"{TENANT}.id", "must be lower-case letters, digits and '-', at most 63"),
    Refused("tenants:\n  - id: 42\n", 2, f"{TENANT}.id", "must be text: put it in quotes"),
    Refused("tenants: []\nother: 1\n", 2, "other", "is not known: `callgate apply --schema` lists all members"),
    Refused(tenant("name: no"), 3, f"{TENANT}.name", "must be text: put it in quotes"),
    Refused(tenant("name:"), 3, f"{TENANT}.name", "has no value: give one, or leave the member out"),
    Refused(tenant("name: ' '"), 3, f"{TENANT}.name", "must be text in one line"),
    Refused(tenant("suspended: 'true'"), 3, f"{TENANT}.suspended", "must be true or false"),
    Refused(tenant("suspend: true"), 3, f"{TENANT}.suspend", "is not known: did you mean suspended?"),
    Refused(
        tenant("callbacks: {url: ftp://x}"),
        3,
        f"{TENANT}.callbacks.url",
        "deliveries to this URL are not possible (url_scheme)",
    ),
    Refused(
        tenant("callbacks: {url: 'http://10.0.0.1/'}"),
        3,
        f"{TENANT}.callbacks.url",
        "deliveries to this URL are not possible (",
    ),
    Refused(tenant("callbacks: {method: PUT}"), 3, f"{TENANT}.callbacks.method", "must be 'GET' or 'POST'"),
    Refused(tenant("callbacks:", "  events: []"), 4, f"{TENANT}.callbacks.events", "must have at least 1 item"),
    Refused(tenant("callbacks: {events: [ended]}"), 3, f"{TENANT}.callbacks.events[0]", "must be 'settled', 'initiated', "),
    Refused(tenant("limits: {max_in_flight: true}"), 3, f"{TENANT}.limits.max_in_flight", "must be a whole number"),
    Refused(tenant("limits: {max_in_flight: 0}"), 3, f"{TENANT}.limits.max_in_flight", "must be greater than or equal to 1"),
    Refused(tenant("hours: {time_zone: UTC, from: '09:00'}"), 3, f"{TENANT}.hours.to", "is missing"),
    Refused(
        tenant("hours: {from: 18:00, to: '19:00', time_zone: UTC}"), 3, f"{TENANT}.hours.from", "must be text: put it in quotes"
    ),
    Refused(
        tenant("hours:", "  to: '09:00'", "  from: '09:00'", "  time_zone: UTC"), 4, f"{TENANT}.hours.to", "must differ from"
    ),
    Refused(tenant("hours: {from: '0', to: '19:00', time_zone: UTC}"), 3, f"{TENANT}.hours.from", "must be a time from 00:00"),
    Refused(
        tenant("hours: {from: '08:00', to: '19:00', time_zone: CEST}"), 3, f"{TENANT}.hours.time_zone", "must be a zone of"
    ),
    Refused(
        tenant("hours: {from: '08:00', to: '19:00', time_zone: UTC, days: [fri, fri]}"),
        3,
        f"{TENANT}.hours.days[1]",
        "is in the list already",
    ),
    Refused(
        tenant("hours: {frm: '08:00', from: '09:00', to: '18:00', time_zone: UTC}"),
        3,
        f"{TENANT}.hours.frm",
        "is not known: did you mean from",
    ),
    Refused(
        tenant("workloads: [{namespace: web, service_account: checkout, scope: [call]}]"),
        3,
        f"{TENANT}.workloads[0].scope",
        "is not known: did you mean scopes?",
    ),
    Refused(
        "tenants:\n  - {id: a, name: A}\n  - {id: a, name: B}\n",
        3,
        "tenants[1]",
        "this tenant is declared twice: the first time in line 2",
    ),
]
UNSEEN = ("deliveries to ", "this ", "must be an http", "must be a zone of", "must differ from")
ACCOUNTS = [
    Refused(tenant("accounts: [{}]"), 3, f"{ACCOUNT}.account_sid", "is missing"),
    Refused(tenant("accounts: [{account_sid: AC1}]"), 3, f"{ACCOUNT}.account_sid", "must be AC and 32 hexadecimal digits"),
    Refused(account("base_url: api.twilio.com"), 5, f"{ACCOUNT}.base_url", "must be an http:// or https:// URL"),
    Refused(account(f"auth_token: {PLANTED}"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account("auth_token: 12345"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account(f"auth_token: [{PLANTED}]"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account(f"auth_token: {{{PLANTED}}}"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account(f"auth_token: {{value: {PLANTED}}}"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account(f"auth_token: {{env: A, file: {PLANTED}}}"), 5, AUTH_TOKEN, SECRET_ADVICE),
    Refused(account("auth_token:"), 5, AUTH_TOKEN, "has no value"),
    Refused(account(f"credentials: [{{auth_token: {PLANTED}}}]"), 5, f"{ACCOUNT}.credentials[0].auth_token", SECRET_ADVICE),
    Refused(account(f"auth_token: {{env: {PLANTED}}}"), 5, ENV, "this environment variable is not set or empty"),
    Refused(account("auth_token: {env: EMPTY}"), 5, ENV, "this environment variable is not set or empty"),
    Refused(account("auth_token: {env: LINES}"), 5, ENV, "this environment variable has more than one line"),
    Refused(account(f"auth_token: {{file: {PLANTED}}}"), 5, FILE, "this file cannot be read: No such file"),
    Refused(account("auth_token: {file: .}"), 5, FILE, "this file cannot be read: Is a directory"),
    Refused(account("auth_token: {file: empty}"), 5, FILE, "this file is empty"),
    Refused(account("auth_token: {file: binary}"), 5, FILE, "this file is not text"),
    Refused(account("auth_token: {file: /dev/zero}"), 5, FILE, "this file is larger than 64 KiB"),
    Refused(account(f"key_sid: {KEY}"), 4, ACCOUNT, "give auth_token, or key_sid and secret"),
    Refused(account("credentials: [{}]"), 5, f"{ACCOUNT}.credentials[0]", "give auth_token, or key_sid and secret"),
    Refused(account("key_sid: SK1", "secret: {env: A}"), 5, f"{ACCOUNT}.key_sid", "must be SK and 32 hexadecimal digits"),
    Refused(account("auth_token: {env: A}", "credentials: []"), 4, ACCOUNT, "has a credential and `credentials`"),
    Refused(
        account(f"auth_token: {{env: A}}\n      - account_sid: {SID}"),
        6,
        f"{TENANT}.accounts[1]",
        "this account is declared twice: the first time in line 4",
    ),
    Refused(account("pace: 1"), 5, PACE, "must be a mapping"),
    Refused(account("pace: {calls: 1}"), 5, f"{PACE}.calls", "is not known: "),
    Refused(account("pace: {calls_per_second: 0}"), 5, f"{PACE}.calls_per_second", RATE),
    Refused(account("pace: {calls_per_second: 1000.5}"), 5, f"{PACE}.calls_per_second", RATE),
    Refused(account("pace: {calls_per_second: fast}"), 5, f"{PACE}.calls_per_second", RATE),
    Refused(account("pace: {calls_per_second: true}"), 5, f"{PACE}.calls_per_second", RATE),
    Refused(account("pace: {calls_per_second: 1, burst: null}"), 5, f"{PACE}.burst", "has no value"),
    Refused(account("pace: {calls_per_second: 1, burst: 1001}"), 5, f"{PACE}.burst", "must be less than or equal to 1000"),
    Refused(account("pace: {max_concurrent: 0}"), 5, f"{PACE}.max_concurrent", "must be greater than or equal to 1"),
    Refused(account("revoked: [x]"), 5, f"{ACCOUNT}.revoked[0]", "must be an API key's SID (SK…) or a credential's id"),
    Refused(
        account(f"key_sid: {KEY}", "secret: {env: A}", f"revoked: [{KEY}]"),
        7,
        f"{ACCOUNT}.revoked[0]",
        "this key is declared as a credential, too",
    ),
]
PBX = "sip_credentials: [{name: pbx, username: berlin, password: {env: A}}]"
WORKLOAD = "tenants[0].workloads[0]"
SIP = "tenants[0].sip_credentials[0]"
REMOVALS = [
    Refused(tenant(PBX.replace("name: pbx", "name: a b")), 3, f"{SIP}.name", "must be letters, digits and '._-', at most 63"),
    Refused(tenant(f"sip_credentials: [{{name: pbx, username: a, password: {PLANTED}}}]"), 3, f"{SIP}.password", SECRET_ADVICE),
    Refused(
        tenant(f"sip_credentials: [{{name: pbx, username: {{{PLANTED}: 1}}, password: {{env: A}}}}]"),
        3,
        f"{SIP}.username",
        "must be text, {env: NAME} or {file: PATH}",
    ),
    Refused(
        tenant(f"sip_credentials: [{{name: pbx, username: {{env: {PLANTED}}}, password: {{env: A}}}}]"),
        3,
        f"{SIP}.username.env",
        "this environment variable is not set or empty",
    ),
    Refused(
        tenant(PBX.replace("}]", "}, {name: pbx, username: x, password: {env: A}}]")),
        3,
        "tenants[0].sip_credentials[1]",
        "this SIP credential is declared twice: the first time in line 3",
    ),
    Refused(tenant(PBX, "revoked: [{sip_credential: pbx}]"), 4, "tenants[0].revoked[0]", "this SIP credential is declared as"),
    Refused(
        tenant("workloads: [{namespace: A, service_account: b}]"), 3, f"{WORKLOAD}.namespace", "must be the name of a name"
    ),
    Refused(
        tenant("workloads: [{namespace: a, service_account: a:b}]"), 3, f"{WORKLOAD}.service_account", "must be the name of"
    ),
    Refused(
        tenant("workloads: [{namespace: a, service_account: b, scopes: [write]}]"),
        3,
        f"{WORKLOAD}.scopes[0]",
        "must be 'call', ",
    ),
    Refused(
        tenant("workloads: [{namespace: a, service_account: b}, {namespace: a, service_account: b}]"),
        3,
        "tenants[0].workloads[1]",
        "this service account is declared twice: the first time in line 3",
    ),
    Refused(
        tenant("workloads: [&one {namespace: a, service_account: b}]", "revoked: [{workload: *one}]"),
        4,
        "tenants[0].revoked[0]",
        "this service account is declared as a workload, too: remove one of the two",
    ),
    Refused(
        tenant(f"workloads: [{{issuer: '{ISSUER}', {BACKEND}}}]", f"revoked: [{{workload: {{{BACKEND}}}}}]"),
        4,
        "tenants[0].revoked[0]",
        "this service account is declared as a workload, too: remove one of the two",
    ),
    Refused(
        tenant(f"workloads: [{{{BACKEND}}}]") + f"  - {{id: other, workloads: [{{issuer: '{ISSUER}', {BACKEND}}}]}}\n",
        4,
        "tenants[1].workloads[0]",
        "this service account is declared twice: the first time in line 3",
    ),
    Refused(
        account(f"credentials: [{{key_sid: SK{'a' * 32}, secret: {{env: A}}}}]", f"revoked: [SK{'A' * 32}]"),
        6,
        f"{ACCOUNT}.revoked[0]",
        "this key is declared as a credential, too: remove one of the two",
    ),
    Refused(tenant("revoked: [{}]"), 3, "tenants[0].revoked[0]", "must have one member: sip_credential, key or workload"),
    Refused(tenant("revoked: [{key: cgk_1}]"), 3, "tenants[0].revoked[0].key", "must be the id of an API key"),
    Refused(
        tenant("revoked: [{key: cgk_0123456789ab, sip_credential: a}]"), 3, "tenants[0].revoked[0]", "must have one member"
    ),
]


@pytest.mark.parametrize(
    "refused", SYNTAX + TYPES + ACCOUNTS + REMOVALS, ids=lambda refused: f"{refused.member}: {refused.text[:40]}"
)
def test_an_error_names_file_line_and_member_and_shows_no_value(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_bytes(refused.file.encode("utf-8", "surrogateescape"))
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    url = refused_url().replace("http", "postgresql")
    variables = {"CALLGATE_DATABASE_URL": url, "CALLGATE_SECRET_KEYS": SECRET_KEY, "A": "a", "EMPTY": " ", "LINES": "a\nb"}
    variables["CALLGATE_WORKLOAD_ISSUER"] = ISSUER
    ended = CliRunner().invoke(app, ["apply", "-f", str(file)], env=environment(tmp_path) | variables)
    assert (ended.exit_code, ended.stdout) == (1, "")
    place = f"callgate: {file}:{refused.line}: " + (f"{refused.member}: " if refused.member else "")
    assert ended.stderr.startswith(place + refused.text)
    assert ended.stderr.count("\n") == 1
    assert PLANTED not in ended.output


def test_a_service_account_needs_an_issuer(tmp_path: Path) -> None:
    declared = tenant(f"workloads: [{{{BACKEND}}}]", "revoked: [{workload: {namespace: a, service_account: c}}]")
    document = read_document(declared.encode())
    with pytest.raises(DocumentInvalid) as refused:
        validate_declaration(document, allowed=AllowList(), workload_issuer=None)
    places = (("workloads", 0), ("revoked", 0, "workload"))
    text = "is missing: give it, or set CALLGATE_WORKLOAD_ISSUER"
    assert list(refused.value.problems) == [FileProblem(text, ("tenants", 0, *place, "issuer")) for place in places]


def test_all_errors_are_shown_at_once(tmp_path: Path) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL="postgresql://127.0.0.1:9/x", CALLGATE_SECRET_KEYS=SECRET_KEY)
    declared = tenant("name: 1", "suspended: 2", "accounts: [{}]")
    ended = run("apply", "-f", "-", environment=configured, standard_input=declared)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "callgate: <stdin>:3: tenants[0].name: must be text: put it in quotes",
        "callgate: <stdin>:4: tenants[0].suspended: must be true or false",
        "callgate: <stdin>:5: tenants[0].accounts[0].account_sid: is missing",
    ]


def test_failures_before_the_file_is_read_have_exit_code_1(tmp_path: Path) -> None:
    """Expects exit code 1, because exit code 2 of a dry run means that there are differences."""
    bare = environment(tmp_path)
    configured = bare | {
        "CALLGATE_DATABASE_URL": refused_url().replace("http", "postgresql"),
        "CALLGATE_SECRET_KEYS": SECRET_KEY,
    }
    (tmp_path / "large").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert failure("apply", environment=configured) == (
        1,
        "callgate: no file was given: use --file FILE, or --file - for standard input",
    )
    code, message = failure("apply", "-f", str(tmp_path / "none"), "--dry-run", environment=configured)
    assert (code, message) == (1, f"callgate: {tmp_path / 'none'}: cannot be read: No such file or directory")
    code, message = failure("apply", "-f", str(tmp_path / "large"), "--dry-run", environment=configured)
    assert (code, message) == (1, f"callgate: {tmp_path / 'large'}:1: the file is larger than 4 MiB")
    code, message = failure("apply", "-f", "-", "--dry-run", environment=bare, standard_input="tenants: []")
    assert code == 1
    assert "CALLGATE_DATABASE_URL is not set" in message
    code, message = failure("apply", "-f", "-", "--dry-run", environment=configured, standard_input="tenants: []")
    assert code == 1
    assert message.startswith("callgate: the database cannot be used (")


def test_the_schema_is_valid_shipped_and_accepts_the_example(tmp_path: Path) -> None:
    printed = run("apply", "--schema", environment=environment(tmp_path))
    assert (printed.returncode, printed.stderr) == (0, "")
    schema = json.loads(printed.stdout)
    assert printed.stdout == SCHEMA.read_text()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text()), schema)
    (documented,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "administration.md").read_text(), re.DOTALL)
    jsonschema.validate(yaml.safe_load(documented), schema)
    validate_declaration(read_document(documented.encode()), allowed=AllowList(), workload_issuer=ISSUER)


@pytest.mark.parametrize(
    "refused", [one for one in TYPES + ACCOUNTS + REMOVALS if "twice" not in one.text], ids=lambda one: one.text[:40]
)
def test_the_schema_refuses_what_the_command_refuses(refused: Refused) -> None:
    """Leaves out what a schema cannot check: secrets, rules for URLs and hours, and a credential both declared and revoked."""
    validator = jsonschema.Draft202012Validator(declaration_json_schema())
    document: Any = yaml.safe_load(refused.file)
    assert validator.is_valid(document) is refused.text.startswith(UNSEEN)
