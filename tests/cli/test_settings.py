"""Settings come from the environment or from files, and all errors are reported at once."""

import base64
from pathlib import Path

import pytest

from app.serve_settings import require_serve_settings
from app.settings import Settings, SettingsError, load_settings

KEYS = [bytes([number]) * 32 for number in (1, 2)]
ENCODED_KEYS = [base64.b64encode(key).decode() for key in KEYS]


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CALLGATE_{name.upper()}", raising=False)


def test_defaults_are_those_documented() -> None:
    settings = load_settings()
    assert (settings.database_url, settings.secret_keys, settings.public_url) == (None, None, None)
    assert settings.state_dir == Path(".callgate")
    assert settings.twilio_base_url == "https://api.twilio.com"
    timeouts = (settings.twilio_connect_timeout, settings.twilio_read_timeout, settings.twilio_pool_timeout)
    assert (timeouts, settings.request_budget) == ((5, 35, 2), 45)


def test_all_invalid_variables_are_named_in_one_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "DATABASE_URL": "mysql://callgate:planted@host/db",
        "SECRET_KEYS": "planted",
        "PUBLIC_URL": "calls.example.com",
        "TWILIO_BASE_URL": "https://user:planted@api.twilio.com",
        "TWILIO_READ_TIMEOUT": "soon",
        "REQUEST_BUDGET": "0",
        "MAX_IN_FLIGHT": "-1",
        "LOG_LEVEL": "LOUD",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"CALLGATE_{name}", value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    message = str(raised.value)
    assert [name for name in wrong if f"CALLGATE_{name}: " not in message] == []
    assert "\n" not in message
    assert "planted" not in message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_a_database_url_is_accepted_in_common_forms(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("CALLGATE_DATABASE_URL", f"{scheme}://callgate:secret@host:5432/callgate?sslmode=require")
    settings = load_settings()
    assert settings.require_database_url() == "postgresql+asyncpg://callgate:secret@host:5432/callgate?sslmode=require"
    assert "secret@" not in repr(settings)


def test_a_budget_too_short_for_one_attempt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_REQUEST_BUDGET", "20")
    with pytest.raises(SettingsError, match=r"CALLGATE_REQUEST_BUDGET is 20 s but .* add up to 42 s"):
        load_settings()


def test_connections_that_creations_in_flight_can_use_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_MAX_IN_FLIGHT", "1000")
    settings = load_settings()  # other commands, such as `migrate` before an upgrade, work with them
    with pytest.raises(SettingsError, match=r"CALLGATE_MAX_CONNECTIONS is 1000 but must be more than CALLGATE_MAX_IN_FLIGHT"):
        require_serve_settings(settings)
    require_serve_settings(settings.model_copy(update={"max_connections": 1001}))


def test_values_come_from_files_unless_the_environment_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers the one file per secret that Kubernetes and Docker mount, with or without a newline at the end."""
    (tmp_path / "callgate_secret_keys").write_text(f"{ENCODED_KEYS[0]},{ENCODED_KEYS[1]}\n")
    (tmp_path / "callgate_log_level").write_text("ERROR")
    monkeypatch.setenv("CALLGATE_LOG_LEVEL", "DEBUG")
    settings = Settings(_secrets_dir=tmp_path)
    assert settings.require_secret_keys() == KEYS
    assert settings.log_level == "DEBUG"


def test_keys_are_read_newest_first_in_both_base64_alphabets(monkeypatch: pytest.MonkeyPatch) -> None:
    other = bytes(range(224, 256))
    encoded = [ENCODED_KEYS[0], base64.b64encode(other).decode(), base64.urlsafe_b64encode(other).decode()]
    monkeypatch.setenv("CALLGATE_SECRET_KEYS", ", ".join(encoded))
    assert load_settings().require_secret_keys() == [KEYS[0], other, other]


def test_an_invalid_key_is_named_by_its_position_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_SECRET_KEYS", f"{ENCODED_KEYS[0]},cGxhbnRlZA==")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "key 2 is not 32 bytes in base64" in str(raised.value)
    assert "cGxhbnRlZA" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.twilio.com/2010-04-01", "https://api.twilio.com"),
        ("https://api.twilio.com/2010-04-01/", "https://api.twilio.com"),
        ("https://api.twilio.com//", "https://api.twilio.com"),
        (" https://api.twilio.com\n", "https://api.twilio.com"),
        ("https://proxy.example/twilio/", "https://proxy.example/twilio"),
        ("https://proxy.example/twilio/2010-04-01", "https://proxy.example/twilio"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_twilios_base_url_is_accepted_in_common_forms(monkeypatch: pytest.MonkeyPatch, given: str, used: str) -> None:
    monkeypatch.setenv("CALLGATE_TWILIO_BASE_URL", given)
    assert load_settings().twilio_base_url == used


@pytest.mark.parametrize(
    "given",
    [
        "api.twilio.com",
        "https://",
        "https://api.twilio.com:port",
        "https://api.twilio.com:99999",
        "https://api.twi lio.com",
        "https://api.twilio.com/2010-04-01/Accounts/AC0/Calls.json",
        "https://api.twilio.com/Accounts/AC0",
        "https://api.twilio.com?x=1",
        "https://api.twilio.com/#",
        "https://api.twilio.com?",
        "https://user@api.twilio.com",
        "https://[::1",
    ],
)
def test_an_invalid_base_url_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("CALLGATE_TWILIO_BASE_URL", given)
    with pytest.raises(SettingsError, match="CALLGATE_TWILIO_BASE_URL: "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "resembling"),
    [
        ("CALLGATE_DATABSE_URL", "CALLGATE_DATABASE_URL"),
        ("CALLGATE_SECRET_KEY", "CALLGATE_SECRET_KEYS"),
        ("callgate_public_uri", "CALLGATE_PUBLIC_URL"),
        ("CALLGATE_RETENTION_DAY", "CALLGATE_RETENTION_DAYS"),
    ],
)
def test_a_misspelt_variable_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch, name: str, resembling: str) -> None:
    monkeypatch.setenv(name, "planted")
    with pytest.raises(SettingsError, match=f"{name} is not a setting: did you mean {resembling}\\?") as raised:
        load_settings()
    assert "planted" not in str(raised.value)


def test_a_misspelt_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.settings.SECRETS_DIR", tmp_path)
    (tmp_path / "callgate_secrets_keys").write_text(ENCODED_KEYS[0])
    with pytest.raises(SettingsError, match="callgate_secrets_keys is not a setting: did you mean CALLGATE_SECRET_KEYS"):
        load_settings()


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.settings.SECRETS_DIR", tmp_path)
    (tmp_path / "callgate_secret_keys").write_bytes(b"planted\xff")
    with pytest.raises(
        SettingsError, match=r'^wrong settings: error getting value for field "secret_keys" from .* UTF-8$'
    ) as raised:
        load_settings()
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALLGATE_PORT", "tcp://10.0.0.1:8000"),
        ("CALLGATE_SERVICE_HOST", "10.0.0.1"),
        ("CALLGATE_SERVICE_PORT", "8000"),
        ("CALLGATE_SERVICE_PORT_HTTP", "8000"),
        ("CALLGATE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("CALLGATE_PORT_8000_TCP_PROTO", "tcp"),
        ("CALLGATE_PUBLIC_URL_SERVICE_HOST", "10.0.0.1"),
        ("CALLGATE_API_PORT", "tcp://10.0.0.1:8000"),
        ("CALLGATE_KEY", "cgk_…"),
    ],
)
def test_variables_of_kubernetes_and_others_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"KEYS": "/etc/callgate/jwks.json"}, "CALLGATE_WORKLOAD_ISSUER is not set"),
        ({"ISSUER": "kubernetes/serviceaccount"}, "CALLGATE_WORKLOAD_KEYS must be set"),
        ({"ISSUER": "http://oidc.example.com"}, "CALLGATE_WORKLOAD_KEYS must be set"),
        ({"ISSUER": "https://a", "KEYS": "http://oidc.example.com/jwks"}, "CALLGATE_WORKLOAD_KEYS: must be an https:// URL"),
        ({"ISSUER": "https://a", "KEYS": "https://user:x@oidc.example.com/jwks"}, "CALLGATE_WORKLOAD_KEYS: must have no user"),
        ({"ISSUER": "https://a", "KEYS": "jwks.json"}, "CALLGATE_WORKLOAD_KEYS: must be an https:// URL or an absolute path"),
        ({"ISSUER": "https://a", "AUDIENCE": ""}, "CALLGATE_WORKLOAD_AUDIENCE"),
    ],
)
def test_a_key_set_that_others_could_change_is_refused(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"CALLGATE_WORKLOAD_{name}", value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize("keys", ["/etc/jwks.json", "https://kubernetes.default.svc/openid/v1/jwks", "http://127.0.0.1:8001/k"])
def test_a_key_set_is_a_file_or_a_url(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("CALLGATE_WORKLOAD_ISSUER", "https://kubernetes.default.svc.cluster.local/")
    monkeypatch.setenv("CALLGATE_WORKLOAD_KEYS", keys)
    settings = load_settings()
    assert (settings.workload_issuer, settings.workload_keys) == ("https://kubernetes.default.svc.cluster.local/", keys)
    assert settings.workload_audience == "callgate"
