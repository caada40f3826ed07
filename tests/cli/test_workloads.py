"""`callgate workloads` registers Kubernetes service accounts. `callgate doctor` checks the issuer's keys and a token."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, run
from tests.support.cluster import ISSUER, KubernetesCluster
from tests.support.gateway import SECRET_KEY


@pytest.fixture(scope="module")
def configured(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cli")
    KubernetesCluster().write_to(folder / "jwks.json")
    values = {"CALLGATE_DATABASE_URL": database_url, "CALLGATE_SECRET_KEYS": SECRET_KEY, "CALLGATE_WORKLOAD_ISSUER": ISSUER}
    variables = environment(folder, **values, CALLGATE_WORKLOAD_KEYS=str(folder / "jwks.json"))
    assert run("tenants", "create", "shop", "--name", "Shop", environment=variables).returncode == 0
    return variables


def callgate(variables: dict[str, str], *arguments: str) -> Any:
    finished = run(*arguments, "--json", environment=variables)
    assert (finished.returncode, finished.stderr) == (0, "")
    return json.loads(finished.stdout)


def test_workloads_are_created_listed_and_deleted(configured: dict[str, str]) -> None:
    names = ["--namespace", "web", "--service-account", "checkout"]
    created = callgate(configured, "workloads", "create", "shop", *names)
    del created["created_at"]
    assert created == {
        "id": created["id"],
        "tenant": "shop",
        "namespace": "web",
        "service_account": "checkout",
        "scopes": ["call", "read"],
        "issuer": ISSUER,
    }
    assert callgate(configured, "workloads", "create", "shop", *names)["id"] == created["id"]
    operator = callgate(
        configured, "workloads", "create", "--operator", "--namespace", "ops", "--service-account", "x", "--scope", "read",
        "--issuer", "https://oidc.example.com",
    )  # fmt: skip
    assert (operator["tenant"], operator["scopes"], operator["issuer"]) == (None, ["read"], "https://oidc.example.com")
    assert [row["id"] for row in callgate(configured, "workloads", "list", "shop")] == [created["id"]]
    assert [row["id"] for row in callgate(configured, "workloads", "list", "--operator")] == [operator["id"]]
    taken = run("workloads", "create", "--operator", *names, environment=configured)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert "acts for another tenant or for operators already" in taken.stderr
    assert callgate(configured, "workloads", "delete", created["id"])["id"] == created["id"]
    assert callgate(configured, "workloads", "list", "shop") == []
    again = run("workloads", "delete", created["id"], environment=configured)
    assert again.returncode == 1
    assert "there is no workload" in again.stderr
    events = callgate(configured, "audit")
    assert [(event["action"], event["tenant"], event["subject"]) for event in events[:3]] == [
        ("workload.delete", "shop", "web/checkout"),
        ("workload.create", None, "ops/x"),
        ("workload.create", "shop", "web/checkout"),
    ]


def test_a_workload_needs_an_issuer(configured: dict[str, str]) -> None:
    without = {name: value for name, value in configured.items() if not name.startswith("CALLGATE_WORKLOAD_")}
    refused = run("workloads", "create", "shop", "--namespace", "a", "--service-account", "b", environment=without)
    assert refused.returncode == 1
    assert "set CALLGATE_WORKLOAD_ISSUER" in refused.stderr


def checks(variables: dict[str, str], token: str, tmp_path: Path) -> list[tuple[str, str, str]]:
    """Runs `callgate doctor` with the token. Returns state, finding and remedy of each check of workloads."""
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    finished = run("doctor", "--token-file", str(file), "--json", environment=variables)
    assert finished.stderr == ""
    for part in token.split("."):
        assert part not in finished.stdout
    rows = json.loads(finished.stdout)
    return [(row["state"], row["found"], row["do"] or "") for row in rows if row["check"].startswith("workload")]


def test_doctor_describes_a_token_and_says_why_it_is_refused(configured: dict[str, str], tmp_path: Path) -> None:
    cluster = KubernetesCluster()
    keys, described, unregistered = checks(configured, cluster.token(name="cart"), tmp_path)
    assert (keys[0], keys[1].startswith(f"1 of the issuer {ISSUER} from /")) == ("ok", True)
    assert described[:2] == (
        "ok",
        f'issuer "{ISSUER}", audience ["callgate"], namespace "shop", service account "cart", lifetime 1:00:00',
    )
    assert unregistered == (
        "wrong",
        "it is valid, but its service account is not a workload",
        "callgate workloads create TENANT --namespace shop --service-account cart",
    )
    callgate(configured, "workloads", "create", "shop", "--namespace", "shop", "--service-account", "cart")
    assert checks(configured, cluster.token(name="cart"), tmp_path)[2][:2] == (
        "ok",
        "it is valid, and acts for tenant shop with call, read",
    )
    *_, audience = checks(configured, cluster.token(aud="\x1b[31mother"), tmp_path)
    assert audience[0:2] == ("wrong", "The service account token is not for the audience `callgate`.")
    *_, algorithm = checks(configured, "eyJhbGciOiJub25lIn0.eyJpc3MiOiJhIn0.AAAAAAAA", tmp_path)
    assert algorithm[1].startswith("The service account token is not signed with the algorithm of its key")
    *_, unreadable, refused = checks(configured, "no-token-at-all", tmp_path)
    assert (unreadable[1], refused[0]) == ("it is not a readable JSON Web Token", "wrong")


def test_doctor_reports_a_key_set_that_cannot_be_read(configured: dict[str, str], tmp_path: Path) -> None:
    missing = configured | {"CALLGATE_WORKLOAD_KEYS": str(tmp_path / "missing.json")}
    keys, _, token = checks(missing, KubernetesCluster().token(), tmp_path)
    assert keys[:2] == ("wrong", f"{tmp_path / 'missing.json'} cannot be used: file_missing")
    assert token[:2] == ("not checked", "there is no key set to check it with")


def test_doctor_describes_a_token_that_no_setting_accepts(configured: dict[str, str], tmp_path: Path) -> None:
    without = {name: value for name, value in configured.items() if not name.startswith("CALLGATE_WORKLOAD_")}
    described, refused = checks(without, KubernetesCluster().token(), tmp_path)
    assert described[1].startswith(f'issuer "{ISSUER}"')
    assert refused[:2] == ("wrong", "no service account tokens are accepted")
