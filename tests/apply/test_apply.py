"""`callgate apply` with a real Postgres: what it changes, what it leaves alone, and that a failure changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from tests.cli.running import DEADLINE_S, environment, failure_to_print, run
from tests.support.gateway import SECRET_KEY
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "overlays" / "declared" / "tenants.yaml"
ACCOUNT, OTHER_ACCOUNT = "AC" + "1" * 32, "AC" + "2" * 32
KEY, OTHER_KEY = "SK" + "1" * 32, "SK" + "2" * 32


class Installation:
    """A database, and the environment variables of the commands that use it."""

    def __init__(self, url: str, tmp_path: Path) -> None:
        self.url = url
        self.folder = tmp_path
        self.variables = environment(
            tmp_path,
            CALLGATE_DATABASE_URL=url,
            CALLGATE_SECRET_KEYS=SECRET_KEY,
            TOKEN="token-of-one",
            OTHER_TOKEN="token-of-another",
            SECRET="secret-of-a-key",
        )

    def write(self, *tenants: dict[str, Any]) -> str:
        path = self.folder / "tenants.yaml"
        path.write_text(yaml.safe_dump({"tenants": list(tenants)}, sort_keys=False))
        return str(path)

    def run(self, *arguments: str, standard_input: str = "", **variables: str) -> tuple[int, str, str]:
        ended = run(*arguments, environment=self.variables | variables, standard_input=standard_input)
        return ended.returncode, ended.stdout, ended.stderr

    def apply(self, *tenants: dict[str, Any], dry_run: bool = False, **variables: str) -> list[str]:
        """Applies a file with these tenants, which must succeed. Returns the changes that were printed, one line for each."""
        options = ["--dry-run"] if dry_run else []
        code, output, errors = self.run("apply", "-f", self.write(*tenants), *options, **variables)
        *changes, summary = output.splitlines()
        assert (code, errors) == (2 if dry_run and changes else 0, "")
        assert summary == _summary(len(changes), dry_run=dry_run)
        return changes

    def listed(self, *arguments: str) -> Any:
        code, output, _ = self.run(*arguments, "--json")
        assert code == 0
        return json.loads(output)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            yield connection
        finally:
            await connection.close()

    async def contents(self) -> str:
        """Returns all rows of all tables as text."""
        async with self.connected() as connection:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            rows = [row for (table,) in tables for row in await connection.fetch(f'SELECT t::text FROM "{table}" t')]  # noqa: S608
        return "\n".join(text for (text,) in rows)

    async def audited(self) -> list[tuple[str, ...]]:
        async with self.connected() as connection:
            statement = "SELECT actor_kind, action, tenant_id, array_to_string(changed, ' ') FROM audit_event ORDER BY id"
            return [tuple(row) for row in await connection.fetch(statement)]


def _summary(changes: int, *, dry_run: bool) -> str:
    count = "1 change" if changes == 1 else f"{changes} changes"
    return "no changes" if changes == 0 else f"{count} {'would be made' if dry_run else 'made'}"


@pytest.fixture
async def installed(database_url: str, tmp_path: Path) -> Installation:
    """An installation without tenants."""
    installation = Installation(database_url, tmp_path)
    async with installation.connected() as connection:
        await connection.execute("TRUNCATE tenant, audit_event, workload CASCADE")
    return installation


def shop(**members: Any) -> dict[str, Any]:
    return {"id": "shop", "name": "Web shop"} | members


def account(*credentials: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"account_sid": ACCOUNT} | ({"credentials": list(credentials)} if credentials else {}) | members


TOKEN = {"auth_token": {"env": "TOKEN"}}
OTHER_TOKEN = {"auth_token": {"env": "OTHER_TOKEN"}}
API_KEY = {"key_sid": KEY, "secret": {"env": "SECRET"}}


async def test_applying_twice_changes_nothing_the_second_time(installed: Installation) -> None:
    for name in ("shop_auth_token", "support_api_secret", "support_auth_token", "pbx_berlin_password"):
        (installed.folder / name).write_text(f"secret-of-{name}\n")
    path = installed.folder / "example.yaml"
    path.write_text(EXAMPLE.read_text().replace("/run/tenant-secrets/", ""))
    first = installed.run("apply", "-f", str(path))
    assert first[0] == 0
    tenants = {tenant["id"]: tenant["state"] for tenant in installed.listed("tenants", "list")}
    assert tenants == {"old-shop": "suspended", "shop": "active", "support": "active"}
    callbacks = installed.listed("tenants", "callbacks", "shop")
    assert (callbacks["events"], callbacks["format"]) == (["answered", "completed"], "json")
    credentials = [(row["kind"], row["base_url"]) for row in installed.listed("accounts", "list", "support")]
    assert credentials == [
        ("api_key", "https://api.dublin.ie1.twilio.com"),
        ("auth_token", "https://api.dublin.ie1.twilio.com"),
    ]
    contents = await installed.contents()
    assert installed.run("apply", "-f", str(path))[:2] == (0, "no changes\n")
    assert installed.run("apply", "-f", str(path), "--dry-run")[:2] == (0, "no changes\n")
    assert await installed.contents() == contents
    audited = await installed.audited()
    assert {kind for kind, *_ in audited} == {"apply"}
    assert [action for _, action, tenant, _ in audited if tenant == "old-shop"] == ["tenant.create", "tenant.suspend"]


async def test_a_dry_run_prints_the_difference_and_changes_nothing(installed: Installation) -> None:
    contents = await installed.contents()
    declared = shop(suspended=True, accounts=[account(TOKEN, base_url="https://api.dublin.ie1.twilio.com/")])
    changes = [
        'tenant shop: create tenant: name "Web shop", suspended true',
        f'tenant shop: add auth token of account {ACCOUNT}: base_url - -> "https://api.dublin.ie1.twilio.com"',
    ]
    assert installed.apply(declared, dry_run=True) == changes
    assert await installed.contents() == contents
    assert installed.apply(declared) == changes
    assert installed.apply(declared, dry_run=True) == []


def test_the_difference_as_json(installed: Installation) -> None:
    path = installed.write(shop(callbacks={"url": "https://shop.example.com/told?key=k3y"}))
    code, output, errors = installed.run("apply", "-f", path, "--dry-run", "--json")
    assert (code, errors) == (2, "")
    name = {"before": None, "after": "Web shop"}
    url = {"before": None, "after": "https://shop.example.com/told?…"}
    assert json.loads(output) == {
        "applied": False,
        "changes": [
            {"tenant": "shop", "action": "create", "subject": "tenant", "members": {"name": name, "callbacks.url": url}},
        ],
    }


def test_what_the_file_does_not_name_stays(installed: Installation) -> None:
    installed.run("tenants", "create", "other", "--name", "Other")
    callbacks = {"url": "https://shop.example.com/told", "method": "GET", "format": "json"}
    installed.apply(
        shop(
            suspended=True,
            callbacks=callbacks,
            accounts=[account(TOKEN, API_KEY), account(TOKEN) | {"account_sid": OTHER_ACCOUNT}],
        )
    )
    assert installed.apply({"id": "shop", "callbacks": {}, "accounts": [account()]}) == []
    assert installed.apply() == []
    assert [tenant["state"] for tenant in installed.listed("tenants", "list")] == ["active", "suspended"]
    assert installed.listed("tenants", "callbacks", "shop")["method"] == "GET"
    assert len(installed.listed("accounts", "list", "shop")) == 3


def test_defaults_show_no_difference(installed: Installation) -> None:
    installed.apply(shop(callbacks={"url": "https://shop.example.com/told"}))
    written = {"url": "https://shop.example.com/told", "method": "POST", "events": ["completed"], "format": "twilio"}
    assert installed.apply(shop(suspended=False, callbacks=written)) == []
    assert installed.apply({"id": "new", "name": "New", "suspended": False, "callbacks": {"method": "POST"}}) == [
        'tenant new: create tenant: name "New"'
    ]
    events = {"url": "https://shop.example.com/told", "events": ["settled", "completed"]}
    assert len(installed.apply(shop(callbacks=events))) == 1
    assert installed.apply(shop(callbacks=events | {"events": ["completed", "settled"]})) == []


def test_null_removes_a_callback_setting(installed: Installation) -> None:
    installed.apply(shop(callbacks={"url": "https://shop.example.com/told", "method": "GET", "events": ["ringing"]}))
    assert installed.apply(shop(callbacks={"method": None})) == ['tenant shop: update tenant: callbacks.method "GET" -> -']
    assert installed.apply(shop(callbacks={"url": None})) == [
        'tenant shop: update tenant: callbacks.url "https://shop.example.com/told" -> -, callbacks.events ["ringing"] -> -'
    ]
    settings = installed.listed("tenants", "callbacks", "shop")
    assert (settings["url"], settings["method"], settings["events"]) == (None, None, None)


def test_members_of_a_tenant_and_its_accounts_change(installed: Installation) -> None:
    installed.apply(shop(accounts=[account(TOKEN)]))
    declared = shop(
        name="Shop", suspended=True, limits={"max_in_flight": 7}, accounts=[account(TOKEN, base_url="http://127.0.0.1:9")]
    )
    assert installed.apply(declared) == [
        'tenant shop: update tenant: name "Web shop" -> "Shop", suspended false -> true, limits.max_in_flight - -> 7',
        f'tenant shop: update account {ACCOUNT}: base_url - -> "http://127.0.0.1:9"',
    ]
    assert installed.apply(declared) == []
    assert installed.apply({"id": "shop", "suspended": False, "limits": {"max_in_flight": None}}) == [
        "tenant shop: update tenant: suspended true -> false, limits.max_in_flight 7 -> -"
    ]


def test_hours_are_set_as_a_whole_and_removed_by_null(installed: Installation) -> None:
    hours = {"time_zone": "Europe/Berlin", "days": ["fri", "mon"], "from": "09:00", "to": "18:00"}
    stored = '{"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "18:00"}'
    installed.apply(shop())
    assert installed.apply(shop(hours=hours)) == [f"tenant shop: update tenant: hours - -> {stored}"]
    assert installed.apply(shop(hours=hours)) == []
    assert installed.apply(shop()) == []
    every_day = '["mon", "tue", "wed", "thu", "fri", "sat", "sun"]'
    assert installed.apply(shop(hours={"time_zone": "UTC", "from": "22:00", "to": "06:00"})) == [
        f"tenant shop: update tenant: hours {stored} -> "
        f'{{"time_zone": "UTC", "days": {every_day}, "from": "22:00", "to": "06:00"}}'
    ]
    assert installed.listed("tenants", "hours", "shop")["from"] == "22:00"
    installed.apply(shop(hours=None))
    assert installed.listed("tenants", "hours", "shop")["from"] is None


def test_the_pace_of_an_account_is_set_changed_and_removed(installed: Installation) -> None:
    def pace() -> Any:
        return installed.listed("accounts", "list", "shop")[0]["pace"]

    declared = shop(accounts=[account(TOKEN, pace={"calls_per_second": 0.5, "burst": 5, "max_concurrent": 10})])
    changes = [
        'tenant shop: create tenant: name "Web shop"',
        f"tenant shop: add auth token of account {ACCOUNT}",
        f"tenant shop: update account {ACCOUNT}: "
        "pace.calls_per_second - -> 0.5, pace.burst 2 -> 5, pace.max_concurrent - -> 10",
    ]
    assert installed.apply(declared, dry_run=True) == changes
    assert installed.apply(declared) == changes
    assert installed.apply(declared) == []
    assert installed.apply(shop(accounts=[account()])) == [], "what the file does not name stays"
    assert pace() == {"calls_per_second": 0.5, "burst": 5, "max_concurrent": 10}
    assert installed.apply(shop(accounts=[account(pace={"calls_per_second": 1, "max_concurrent": None})])) == [
        f"tenant shop: update account {ACCOUNT}: pace.calls_per_second 0.5 -> 1, pace.max_concurrent 10 -> -"
    ]
    assert pace() == {"calls_per_second": 1, "burst": 5, "max_concurrent": None}
    assert installed.apply(shop(accounts=[account(pace=None)])) == [
        f"tenant shop: update account {ACCOUNT}: pace.calls_per_second 1 -> -, pace.burst 5 -> 2"
    ]
    assert installed.apply(shop(accounts=[account(pace=None)])) == []
    assert pace() is None


async def test_a_pace_that_cannot_be_is_refused_and_nothing_is_changed(installed: Installation) -> None:
    installed.apply(shop(accounts=[account(TOKEN)]))
    contents = await installed.contents()
    for pace, member, text in (
        ({"burst": 5}, "burst", "a burst needs calls_per_second"),
        ({"calls_per_second": 0.0001}, "calls_per_second", "must be a number of more than 0, at most 1000, with at most 3"),
    ):
        path = installed.write(shop(name="Shop", accounts=[account(pace=pace)]))
        code, output, errors = installed.run("apply", "-f", path)
        assert (code, output) == (1, "")
        assert f"tenants[0].accounts[0].pace.{member}: {text}" in errors
    assert await installed.contents() == contents


def test_a_new_secret_is_added_and_the_old_one_stays_until_it_is_revoked(installed: Installation) -> None:
    installed.apply(shop(accounts=[account(TOKEN)]))
    (old,) = installed.listed("accounts", "list", "shop")
    assert installed.apply(shop(accounts=[account(OTHER_TOKEN)])) == [f"tenant shop: add auth token of account {ACCOUNT}"]
    assert installed.listed("accounts", "list", "shop")[0]["credential"] == old["credential"]
    revoking = shop(
        accounts=[
            account(
                OTHER_TOKEN,
                API_KEY,
                revoked=[
                    old["credential"],
                ],
            )
        ]
    )
    assert installed.apply(revoking) == [
        f"tenant shop: add {KEY} of account {ACCOUNT}",
        f"tenant shop: revoke credential {old['credential']} ({ACCOUNT}) of account {ACCOUNT}",
    ]
    assert installed.apply(revoking) == []
    assert installed.apply(shop(accounts=[account(revoked=[KEY])]))[0].startswith("tenant shop: revoke credential ")
    (left,) = installed.listed("accounts", "list", "shop")
    assert left["credential"] not in (old["credential"], None)


def test_a_secret_that_was_revoked_is_not_used_again(installed: Installation) -> None:
    installed.apply(shop(accounts=[account(TOKEN)]))
    (old,) = installed.listed("accounts", "list", "shop")
    installed.run("accounts", "revoke", "shop", old["credential"])
    path = installed.write(shop(accounts=[account(TOKEN)]))
    code, output, errors = installed.run("apply", "-f", path)
    assert (code, output) == (1, "")
    member = "tenants[0].accounts[0].credentials[0].auth_token"
    assert errors == (
        f"callgate: {path}:7: {member}: this secret is revoked, and a file does not undo that: remove it, or use "
        "`callgate accounts add`\n"
    )


async def test_a_damaged_credential_is_replaced_by_the_same_secret(installed: Installation) -> None:
    installed.apply(shop(accounts=[account(TOKEN)]))
    (damaged,) = installed.listed("accounts", "list", "shop")
    async with installed.connected() as connection:
        await connection.execute("UPDATE twilio_credential SET sealed_secret = '\\x01'")
    declared = shop(accounts=[account(TOKEN, revoked=[damaged["credential"]])])
    added = f"tenant shop: add auth token of account {ACCOUNT}"
    name = f"credential {damaged['credential']} ({ACCOUNT}) of account {ACCOUNT}"
    assert installed.apply(declared) == [added, f"tenant shop: revoke {name}"]
    assert installed.apply(declared) == []


def test_a_secret_that_the_api_refuses_is_refused_before_anything_is_changed(installed: Installation) -> None:
    path = installed.write(shop(accounts=[account(TOKEN)]))
    for arguments in (("apply", "-f", path), ("apply", "-f", path, "--dry-run")):
        code, output, errors = installed.run(*arguments, TOKEN="two words")
        assert (code, output) == (1, "")
        assert errors == (
            f"callgate: {path}:7: tenants[0].accounts[0].credentials[0].auth_token: must be 1 to 256 printable ASCII "
            "characters without spaces\n"
        )


def test_revoking_what_an_account_does_not_have_is_a_note(installed: Installation) -> None:
    path = installed.write(shop(accounts=[account(TOKEN, revoked=[OTHER_KEY])]))
    code, output, errors = installed.run("apply", "-f", path)
    assert (code, output.splitlines()[-1]) == (0, "2 changes made")
    assert errors == (
        f"callgate: note: {path}:10: tenants[0].accounts[0].revoked[0]: the account has no such credential: nothing to revoke\n"
    )


def test_sip_credentials_are_created_replaced_and_deleted(installed: Installation) -> None:
    pbx = {"name": "pbx-berlin", "username": "berlin", "password": {"env": "SECRET"}}
    other = pbx | {"name": "pbx-other", "username": {"env": "TOKEN"}}
    declared = shop(sip_credentials=[pbx, other])
    assert installed.apply(declared)[1:] == [
        "tenant shop: create SIP credential pbx-berlin",
        "tenant shop: create SIP credential pbx-other",
    ]
    assert installed.apply(declared) == []
    for changed in ({"username": "hamburg"}, {"password": {"env": "TOKEN"}}):
        assert installed.apply(shop(sip_credentials=[pbx | changed])) == ["tenant shop: update SIP credential pbx-berlin"]
    removed = shop(revoked=[{"sip_credential": "pbx-berlin"}] * 2)
    assert installed.apply(removed) == ["tenant shop: delete SIP credential pbx-berlin"]
    path = installed.write(shop(revoked=[{"sip_credential": "pbx-berlin"}]))
    note = "tenants[0].revoked[0].sip_credential: the tenant has no such SIP credential: nothing to delete"
    assert installed.run("apply", "-f", path) == (0, "no changes\n", f"callgate: note: {path}:5: {note}\n")
    assert [row["name"] for row in installed.listed("sip-credentials", "list", "shop")] == ["pbx-other"]


def test_workloads_are_created_changed_and_deleted(installed: Installation) -> None:
    issuer = "https://cluster.example.com"
    backend = {"namespace": "shop", "service_account": "backend"}
    foreign = backend | {"issuer": "https://other.example.com", "scopes": ["read", "read"]}
    declared = shop(workloads=[backend, foreign])
    created = [
        'tenant shop: create workload shop/backend: scopes ["call", "read"]',
        'tenant shop: create workload shop/backend: scopes ["read"]',
    ]
    assert installed.apply(declared, CALLGATE_WORKLOAD_ISSUER=issuer)[1:] == created
    assert installed.apply(declared, CALLGATE_WORKLOAD_ISSUER=issuer) == []
    named = backend | {"issuer": issuer}
    assert installed.apply(shop(workloads=[named | {"scopes": ["admin", "call"]}])) == [
        'tenant shop: update workload shop/backend: scopes ["call", "read"] -> ["call", "admin"]'
    ]
    assert installed.apply(shop(workloads=[named])) == []
    path = installed.write(shop(), {"id": "other", "name": "Other", "workloads": [named]})
    code, output, errors = installed.run("apply", "-f", path)
    assert (code, output) == (1, "")
    assert errors == (
        f"callgate: {path}:7: tenants[1].workloads[0]: this service account acts for another tenant or for operators: delete "
        "that workload first\n"
    )
    removed = shop(revoked=[{"workload": named}, {"workload": backend}])
    assert installed.apply(removed, CALLGATE_WORKLOAD_ISSUER=issuer) == ["tenant shop: delete workload shop/backend"]
    path = installed.write(shop(revoked=[{"workload": named}]))
    note = "tenants[0].revoked[0].workload: the tenant has no such workload: nothing to delete"
    assert installed.run("apply", "-f", path) == (0, "no changes\n", f"callgate: note: {path}:5: {note}\n")
    assert [row["issuer"] for row in installed.listed("workloads", "list", "shop")] == ["https://other.example.com"]


def test_changes_that_are_made_and_cannot_be_printed(installed: Installation) -> None:
    unprinted = failure_to_print("apply", "-f", installed.write(shop()), environment=installed.variables)
    assert unprinted == (3, "callgate: all changes were made, but could not be printed\n")
    assert installed.apply(shop()) == []


def test_keys_are_revoked(installed: Installation) -> None:
    installed.apply(shop(), {"id": "other", "name": "Other"})
    ids = [installed.listed("keys", "create", tenant)["id"] for tenant in ("shop", "other")]
    declared = shop(revoked=[{"key": ids[0]}] * 2)
    assert installed.apply(declared) == [f"tenant shop: revoke API key {ids[0]}"]
    assert installed.apply(declared) == []
    path = installed.write(shop(revoked=[{"key": ids[1]}]))
    assert installed.run("apply", "-f", path) == (
        0,
        "no changes\n",
        f"callgate: note: {path}:5: tenants[0].revoked[0].key: the tenant has no such key: nothing to revoke\n",
    )
    assert [row["state"] for row in installed.listed("keys", "list", "other")] == ["active"]


def test_secrets_from_files_and_the_declaration_from_standard_input(installed: Installation) -> None:
    (installed.folder / "token").write_text("token-of-one\n")
    declared = shop(accounts=[{"account_sid": ACCOUNT, "auth_token": {"file": "token"}}])
    assert len(installed.apply(declared)) == 2
    as_json = json.dumps({"tenants": [shop(accounts=[{"account_sid": ACCOUNT, **TOKEN}])]}, indent="\t")
    assert installed.run("apply", "-f", "-", standard_input=as_json) == (0, "no changes\n", "")


async def test_a_failure_half_way_changes_nothing(installed: Installation) -> None:
    """Covers a failure after the first tenant and its credential were written: the database refuses the second tenant."""
    async with installed.connected() as connection:
        await connection.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON tenant FOR EACH ROW WHEN (NEW.id = 'second') EXECUTE FUNCTION refuse();
        """)
    contents = await installed.contents()
    declared = installed.write(shop(accounts=[account(TOKEN)]), {"id": "second", "name": "Second"})
    code, output, errors = installed.run("apply", "-f", declared)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert await installed.contents() == contents
    async with installed.connected() as connection:
        await connection.execute("DROP TRIGGER refuse ON tenant")
    assert len(installed.apply(shop(accounts=[account(TOKEN)]), {"id": "second", "name": "Second"})) == 3


async def test_a_connection_that_is_lost_at_the_commit_leaves_the_result_open(installed: Installation) -> None:
    async with installed.connected() as connection:
        await connection.execute("""
            CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON tenant DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION cut();
        """)
    code, output, errors = installed.run("apply", "-f", installed.write(shop()))
    async with installed.connected() as connection:
        await connection.execute("DROP TRIGGER cut ON tenant")
    assert (code, output, errors.count("\n")) == (3, "", 1)
    assert "not certain whether anything was changed: run the command again" in errors
    assert len(installed.apply(shop())) == 1


async def test_two_at_once_wait_for_each_other(installed: Installation) -> None:
    """Covers two commands: the first holds the lock of `callgate apply` and waits for a row that this test has locked."""
    installed.apply(shop())
    path = installed.write(shop(suspended=True, accounts=[account(TOKEN)]))

    async def both(connection: asyncpg.Connection, locked: asyncpg.Connection) -> list[tuple[int, str, str]]:
        async with asyncio.timeout(DEADLINE_S), locked.transaction():
            await locked.execute("SELECT FROM tenant WHERE id = 'shop' FOR UPDATE")
            applying = [asyncio.create_task(asyncio.to_thread(installed.run, "apply", "-f", path)) for _ in range(2)]
            while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
                await asyncio.sleep(0.02)
            assert not any(task.done() for task in applying)
        return list(await asyncio.gather(*applying))

    async with installed.connected() as connection, installed.connected() as locked:
        results = await both(connection, locked)
    assert sorted(output.splitlines()[-1] for _, output, _ in results) == ["2 changes made", "no changes"]
    assert [(code, errors) for code, _, errors in results] == [(0, "")] * 2
    assert len(installed.listed("accounts", "list", "shop")) == 1


async def test_planted_secrets_appear_nowhere(installed: Installation) -> None:
    """Searches output, audit events and columns for secrets, after a file was applied, compared and refused."""
    secrets = {
        "TOKEN": "pl4nted-t0ken",
        "OTHER_TOKEN": "pl4nted-0ther",
        "SECRET": "pl4nted-s3cret",
        "LITERAL": "pl4nted-l1teral",
    }
    (installed.folder / "secret").write_text(secrets["SECRET"])
    from_file = {"key_sid": KEY, "secret": {"file": "secret"}}
    sip = {"name": "pbx", "username": {"env": "OTHER_TOKEN"}, "password": {"file": "secret"}}
    good = installed.write(shop(accounts=[account(TOKEN, from_file)], sip_credentials=[sip]))
    commands = [["apply", "-f", good, *options] for options in (["--dry-run"], ["--json"], ["--dry-run", "--json"])]
    printed = [installed.run(*command, **secrets) for command in commands]
    assert [code for code, _, _ in printed] == [2, 0, 0]
    async with installed.connected() as connection:
        await connection.execute("UPDATE twilio_credential SET revoked_at = now() WHERE kind = 'auth_token'")
    for bad in (account(TOKEN), account(OTHER_TOKEN, {"auth_token": secrets["LITERAL"]}), account(from_file, auth_token="x")):
        refused = installed.write(shop(accounts=[bad]))
        printed.append(installed.run("apply", "-f", refused, **secrets))
        assert printed[-1][0] == 1
    printed.append(installed.run("audit", "--json"))
    stored = await installed.contents()
    assert KEY in stored
    for secret in secrets.values():
        assert secret not in f"{printed}{stored}"
        assert secret.encode().hex() not in stored


@needs_pgbouncer
async def test_it_works_through_pgbouncer_in_transaction_mode(installed: Installation) -> None:
    async with pgbouncer(installed.url, pool_mode="transaction", max_prepared_statements=100) as url:
        path = installed.write(shop(accounts=[account(TOKEN, API_KEY)]))
        for expected in ("3 changes made", "no changes"):
            code, output, errors = await asyncio.to_thread(installed.run, "apply", "-f", path, CALLGATE_DATABASE_URL=url)
            assert (code, output.splitlines()[-1], errors) == (0, expected, "")
        code, output, _ = await asyncio.to_thread(installed.run, "apply", "-f", path, "--dry-run", CALLGATE_DATABASE_URL=url)
        assert (code, output) == (0, "no changes\n")
