"""Settings: variables, files, TOML, their precedence, and no secret in any message."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from custody.cli.commands import serve
from custody.settings import ConfigurationError, Settings, load, unknown_names

URL = "postgresql://custody_app:hunter2-is-the-password@db.example:5432/custody"
NEEDLE = "hunter2"
ADMIN_TOKEN = NEEDLE * 5

# setting → what is written as a variable, in TOML, and what it means
GOOD: dict[str, tuple[str, str, Any]] = {
    "env": ("development", '"development"', "development"),
    "listen": ("[::1]:3001", '"[::1]:3001"', "[::1]:3001"),
    "admin_listen": ("unix:/run/admin", '"unix:/run/admin"', "unix:/run/admin"),
    "database_url": (URL, f'"{URL}"', SecretStr(URL)),
    "audit_database_url": (URL, f'"{URL}"', SecretStr(URL)),
    "owner_database_url": (URL, f'"{URL}"', SecretStr(URL)),
    "rewrap_database_url": (URL, f'"{URL}"', SecretStr(URL)),
    "kek": ("vault:transit/mana", '"vault:transit/mana"', "vault:transit/mana"),
    "old_keks": ("env:A, env:B  env:C", '["env:A", "env:B", "env:C"]', ("env:A", "env:B", "env:C")),
    "second_kek": ("aws-kms:alias/second", '"aws-kms:alias/second"', "aws-kms:alias/second"),
    "jwks_url": ("https://a.example/jwks", '"https://a.example/jwks"', "https://a.example/jwks"),
    "jwks_file": ("/etc/jwks.json", '"/etc/jwks.json"', Path("/etc/jwks.json")),
    "jwt_issuer": ("https://a.example", '"https://a.example"', "https://a.example"),
    "jwt_audience": ("other", '"other"', "other"),
    "jwt_max_lifetime": ("3600", "3600", 3600),
    "step_up_max_age": ("300", "300", 300),
    "step_up_acr": ("phr, phrh", '["phr", "phrh"]', ("phr", "phrh")),
    "trusted_proxies": (
        "10.0.0.0/8 ::1,unix",
        '["10.0.0.0/8", "::1", "unix"]',
        ("10.0.0.0/8", "::1", "unix"),
    ),
    "cors_origins": (
        "https://a.example,http://localhost:5173",
        '"https://a.example http://localhost:5173"',
        ("https://a.example", "http://localhost:5173"),
    ),
    "user_concurrency": ("8", "8", 8),
    "rate_limit": ("50", "50", 50),
    "unwrap_limit": ("500", "500", 500),
    "canary_users": ("eve, mallory", '["eve", "mallory"]', ("eve", "mallory")),
    "canary_answer": ("serve", '"serve"', "serve"),
    "rewrap_interval": ("3600", "3600", 3600),
    "audit_seal_interval": ("60", "60", 60),
    "erasure_record": ("/var/erased", '"/var/erased"', Path("/var/erased")),
    "audit_export": ("syslog://[::1]:514", '"syslog://[::1]:514"', "syslog://[::1]:514"),
    "kek_max_age": ("90", "90", 90),
    "data_key_ttl": ("60", "60", 60),
    "data_key_max_age": ("604800", "604800", 604_800),
    "legacy_rows": ("accept", '"accept"', "accept"),
    "reset": ("on", '"on"', "on"),
    "tls_cert": ("/etc/cert.pem", '"/etc/cert.pem"', Path("/etc/cert.pem")),
    "tls_key": ("/etc/key.pem", '"/etc/key.pem"', Path("/etc/key.pem")),
    "allow_plain": ("listen kms,", '["listen", "kms"]', ("listen", "kms")),
    "admin_token": (ADMIN_TOKEN, f'"{ADMIN_TOKEN}"', SecretStr(ADMIN_TOKEN)),
    "log_level": ("warning", '"warning"', "warning"),
    "log_format": ("text", '"text"', "text"),
    "tracing": ("otel", '"otel"', "otel"),
    "workers": ("4", "4", 4),
}
BAD: dict[str, tuple[str, ...]] = {
    "env": ("test", "Production"),
    "listen": ("3001", "localhost", ":3001", "a:b", "a:65536", "a:-1", "a:\u0661", "unix:run"),
    "admin_listen": ("3002", "unix:"),
    "database_url": (f"mysql://{NEEDLE}@a/b", NEEDLE, f"host=a password={NEEDLE}"),
    "audit_database_url": (f"http://u:{NEEDLE}@a/b",),
    "owner_database_url": (f"http://u:{NEEDLE}@a/b",),
    "rewrap_database_url": (f"http://u:{NEEDLE}@a/b",),
    "jwks_url": (f"https://user:{NEEDLE}@a.example/jwks", "a.example/jwks", "file:///etc/passwd"),
    "trusted_proxies": ("10.0.0.1/8", "proxy.example", "10.0.0.0/33", "127.0.0.1 *"),
    "cors_origins": ("*", "https://a.example/", "a.example", "null", "https://a.example *"),
    "step_up_max_age": ("0", "-1", "soon"),
    "step_up_acr": ("phr a\\b", "\u00e9"),
    "user_concurrency": ("0", "1001", "many"),
    "rate_limit": ("-1", "1.5", "many", "1000001", "nan"),
    "unwrap_limit": ("-1", "many"),
    "canary_answer": ("ignore",),
    "rewrap_interval": ("-1", "soon"),
    "audit_seal_interval": ("-1", "3601", "soon"),
    "audit_export": (
        *("/var/log/audit", "file:audit", "file:///var/log/audit", "file:/", "file:/a?format=xml"),
        *("syslog://logs", "syslog://logs:0", "syslog://logs:65536", "syslog://u@logs:514"),
        *("udp://logs:514", "syslog+udp://logs:514", "journal:/run", "https://logs", "syslog:a"),
    ),
    "kek_max_age": ("-1", "36501", "1y"),
    "data_key_ttl": ("0", "604801", "soon"),
    "data_key_max_age": ("0", "2592001", "3599"),
    "legacy_rows": ("on", "Accept", "refuse accept"),
    "reset": ("true", "On", "on off"),
    "allow_plain": ("all", "listen *"),
    "admin_token": (NEEDLE, f"{NEEDLE} {NEEDLE * 9}"),
    "log_level": ("trace", "INFO "),
    "log_format": ("xml",),
    "tracing": ("on", "OTEL"),
    "workers": ("-1", "many"),
}
NAMES = sorted(Settings.model_fields)
PARTNERS = {"tls_cert": "tls_key", "tls_key": "tls_cert"}
# Settings that name a file.
PATHS = ("erasure_record", "jwks_file", "tls_cert", "tls_key")


def variables(name: str, value: str, suffix: str = "") -> dict[str, str]:
    """The variable of a setting, with what it can't be without."""
    made = {f"CUSTODY_{name.upper()}{suffix}": value}
    if partner := PARTNERS.get(name):
        made[f"CUSTODY_{partner.upper()}"] = "/else"
    return made


def toml(folder: Path, text: str) -> dict[str, str]:
    path = folder / "custody.toml"
    path.write_text(text, encoding="utf-8")
    return {"CUSTODY_CONFIG": str(path)}


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(environ)
    message = str(error.value)
    # pytest names the folder after the case.
    assert NEEDLE not in message.replace(environ.get("CUSTODY_CONFIG", "\n"), "")
    assert "\n" not in message
    assert error.value.__cause__ is None
    return message


def test_every_setting_has_a_case() -> None:
    assert set(Settings.model_fields) <= set(GOOD)


def test_defaults() -> None:
    settings = load({})
    assert settings.env == "production"
    assert not settings.development
    assert (settings.listen, settings.admin_listen) == ("127.0.0.1:3001", "127.0.0.1:3002")
    assert (settings.kek, settings.old_keks) == ("env:MANA_AUTH_KEK", ())
    assert (settings.jwt_audience, settings.rate_limit) == ("mana", 100)
    assert settings.user_concurrency == 16
    assert (settings.data_key_ttl, settings.data_key_max_age) == (3600, 86_400)
    assert settings.legacy_rows == "refuse"
    assert (settings.cors_origins, settings.trusted_proxies) == ((), ())
    assert (settings.log_level, settings.log_format) == ("info", "json")
    for name in ("database_url", "owner_database_url", "jwks_url", "jwks_file", "jwt_issuer"):
        assert getattr(settings, name) is None


@pytest.mark.parametrize("name", NAMES)
def test_variable(name: str) -> None:
    text, _, meaning = GOOD[name]
    assert getattr(load(variables(name, text)), name) == meaning


@pytest.mark.parametrize("name", NAMES)
def test_file(tmp_path: Path, name: str) -> None:
    text, _, meaning = GOOD[name]
    path = tmp_path / "value"
    path.write_text(f" {text}\n", encoding="utf-8")
    assert getattr(load(variables(name, str(path), "_FILE")), name) == meaning


@pytest.mark.parametrize("name", NAMES)
def test_toml(tmp_path: Path, name: str) -> None:
    _, written, meaning = GOOD[name]
    text = f"{name} = {written}\n"
    if partner := PARTNERS.get(name):
        text += f'{partner} = "/else"\n'
    assert getattr(load(toml(tmp_path, text)), name) == meaning


@pytest.mark.parametrize("name", NAMES)
def test_both_variable_and_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "value"
    path.write_text(GOOD[name][0], encoding="utf-8")
    both = variables(name, GOOD[name][0]) | variables(name, str(path), "_FILE")
    message = refusal(both)
    assert f"CUSTODY_{name.upper()} and CUSTODY_{name.upper()}_FILE" in message


def test_acr_that_no_challenge_can_hold(tmp_path: Path) -> None:
    for environ in (
        {"CUSTODY_STEP_UP_ACR": 'phr a"b'},
        toml(tmp_path, "step_up_acr = ['phr', 'a b']"),
    ):
        assert "ASCII without spaces, quotes and backslashes" in refusal(environ)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in NAMES for value in BAD.get(name, ())]
)
def test_bad_value(tmp_path: Path, name: str, value: str) -> None:
    for environ in (
        {f"CUSTODY_{name.upper()}": value},
        toml(tmp_path, f'{name} = "{value}"'),
    ):
        message = refusal(environ)
        assert f"CUSTODY_{name.upper()}" in message
        # It says what is wrong and what to write, and never what was written.
        assert len(message) > len(name) + 20


@pytest.mark.parametrize("name", ["database_url", "old_keks", "cors_origins", "kek", "listen"])
@pytest.mark.parametrize("written", ["1", "true", "[1, 2]", "{a = 1}", "1979-05-27"])
def test_toml_of_another_type(tmp_path: Path, name: str, written: str) -> None:
    assert f"CUSTODY_{name.upper()}" in refusal(toml(tmp_path, f"{name} = {written}"))


def test_variable_wins_over_toml(tmp_path: Path) -> None:
    config = toml(tmp_path, 'jwt_audience = "of the file"\nrate_limit = 7')
    settings = load(config | {"CUSTODY_JWT_AUDIENCE": "of the variable"})
    assert (settings.jwt_audience, settings.rate_limit) == ("of the variable", 7)
    path = tmp_path / "value"
    path.write_text("of the variable's file", encoding="utf-8")
    settings = load(config | {"CUSTODY_JWT_AUDIENCE_FILE": str(path)})
    assert settings.jwt_audience == "of the variable's file"


def test_empty_variable_is_not_set(tmp_path: Path) -> None:
    config = toml(tmp_path, 'jwt_audience = "of the file"')
    empty = {"CUSTODY_JWT_AUDIENCE": "", "CUSTODY_DATABASE_URL": "", "CUSTODY_KEK_FILE": ""}
    settings = load(config | empty)
    assert settings.jwt_audience == "of the file"
    assert settings.database_url is None
    assert settings.kek == "env:MANA_AUTH_KEK"


@pytest.mark.parametrize(
    "text",
    [
        f'databaseurl = "{URL}"',
        f'DATABASE_URL = "{URL}"',
        f'custody_database_url = "{URL}"',
        f'[custody]\ndatabase_url = "{URL}"',
        f'"" = "{URL}"',
        f'model_config = "{URL}"',
        f'development = "{URL}"',
    ],
)
def test_unknown_name_in_toml(tmp_path: Path, text: str) -> None:
    message = refusal(toml(tmp_path, text))
    assert "unknown name" in message
    assert "did you mean" in message or "custody config shows" in message
    assert "database_url" in message  # what there is


@pytest.mark.parametrize(
    "text",
    [
        f"database_url = {URL}",
        f'database_url = "{URL}',
        f'database_url = "{URL}"\ndatabase_url = "{URL}"',
        f"= {NEEDLE}",
        NEEDLE,
    ],
)
def test_broken_toml(tmp_path: Path, text: str) -> None:
    assert "is not TOML" in refusal(toml(tmp_path, text))


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe" + NEEDLE.encode())
    (tmp_path / "large").write_bytes(NEEDLE.encode() * 20_000)
    for variable in ("CUSTODY_CONFIG", "CUSTODY_DATABASE_URL_FILE"):
        for name in ("latin", "large", "missing", "."):
            message = refusal({variable: str(tmp_path / name)})
            assert message.startswith(f"{variable} names {tmp_path}")


def test_pairs() -> None:
    assert "go together" in refusal({"CUSTODY_TLS_CERT": "/cert"})
    assert "go together" in refusal({"CUSTODY_TLS_KEY": "/key"})
    both = {"CUSTODY_JWKS_URL": "https://a.example/jwks", "CUSTODY_JWKS_FILE": "/jwks"}
    assert "both set" in refusal(both)


@pytest.mark.parametrize("name", ["KEK", "OLD_KEKS", "SECOND_KEK"])
@pytest.mark.parametrize("attribute", ["?pin-value", ";pin%2dvalue"])
def test_a_pin_is_no_setting(name: str, attribute: str) -> None:
    """Nor shown by ``custody config``, which ends here."""
    uri = f"pkcs11:token=t;object=o{attribute}={NEEDLE}"
    assert "holds a PIN (pin-value)" in refusal({f"CUSTODY_{name}": uri})


def test_all_faults_at_once() -> None:
    message = refusal({"CUSTODY_LISTEN": "x", "CUSTODY_RATE_LIMIT": "y", "CUSTODY_ENV": "z"})
    for name in ("CUSTODY_LISTEN", "CUSTODY_RATE_LIMIT", "CUSTODY_ENV"):
        assert name in message


def test_misspelt_variables() -> None:
    good = {f"CUSTODY_{name.upper()}{suffix}": "x" for name in NAMES for suffix in ("", "_FILE")}
    others = {"PATH": "x", "CUSTODYX": "x", "CUSTODY_CONFIG": "x"}
    assert unknown_names(good | others) == {}
    bad = {"CUSTODY_DATABSE_URL": NEEDLE, "CUSTODY_": "x", "CUSTODY_CONFIG_FILE": "x"}
    assert list(unknown_names(good | others | bad)) == sorted(bad)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("CUSTODY_DATABSE_URL", "CUSTODY_DATABASE_URL"),
        ("CUSTODY_DATABASE_URI", "CUSTODY_DATABASE_URL"),
        ("CUSTODY_DATABASE_URL_FILES", "CUSTODY_DATABASE_URL_FILE"),
        ("CUSTODY_JWT_AUD", "CUSTODY_JWT_AUDIENCE"),
        ("CUSTODY_ISSUER", "CUSTODY_JWT_ISSUER"),
        ("CUSTODY_KEKS", "CUSTODY_KEK"),
        ("CUSTODY_LOGLEVEL", "CUSTODY_LOG_LEVEL"),
        ("CUSTODY_TRUSTED_PROXY", "CUSTODY_TRUSTED_PROXIES"),
        ("CUSTODY_CORS_ORIGIN", "CUSTODY_CORS_ORIGINS"),
        ("CUSTODY_CONFIG_FILE", "CUSTODY_CONFIG"),
        ("custody_database_url", "CUSTODY_DATABASE_URL"),
        ("Custody_Listen", "CUSTODY_LISTEN"),
    ],
)
def test_misspelt_variable_is_told_the_right_name(wrong: str, right: str) -> None:
    assert unknown_names({wrong: NEEDLE}) == {wrong: f"did you mean {right}?"}


def test_daemon_says_so_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "prepare", lambda: load({}))
    monkeypatch.setenv("CUSTODY_DATABSE_URL", NEEDLE)
    with (
        capture_logs() as logs,
        pytest.raises(ConfigurationError, match="CUSTODY_DATABASE_URL must be set"),
    ):
        serve.serve()
    assert [line for line in logs if line["name"] == "CUSTODY_DATABSE_URL"] == [
        {
            "event": "unknown_setting",
            "log_level": "warning",
            "name": "CUSTODY_DATABSE_URL",
            "cure": "no such setting: did you mean CUSTODY_DATABASE_URL?",
        }
    ]


@pytest.mark.parametrize("name", ["CUSTODY_", "CUSTODY_XYZZY"])
def test_name_that_is_like_none_is_sent_to_the_list(name: str) -> None:
    assert unknown_names({name: NEEDLE}) == {name: "custody config shows all there are"}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_database_url_as_the_driver_reads_it(scheme: str) -> None:
    settings = load({"CUSTODY_DATABASE_URL": f" {scheme}://u:p@h/d\n"})
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    assert url in {"postgresql://u:p@h/d", "postgres://u:p@h/d"}


def test_secrets_are_not_shown() -> None:
    settings = load({"CUSTODY_DATABASE_URL": URL, "CUSTODY_OWNER_DATABASE_URL": URL})
    shown = (
        repr(settings),
        str(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
        repr(settings.database_url),
    )
    for text in shown:
        assert NEEDLE not in text


def test_frozen() -> None:
    settings = load({})
    with pytest.raises(ValidationError):
        settings.rate_limit = 5  # type: ignore[misc]


# ── credentials of systemd ────────────────────────────────────────────────────


def credential(folder: Path, name: str, content: str | bytes) -> dict[str, str]:
    """Put a credential where systemd does; returns the variable by which it says so."""
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(content)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


@pytest.mark.parametrize("name", NAMES)
def test_credential(tmp_path: Path, name: str) -> None:
    text, _, meaning = GOOD[name]
    environ = credential(tmp_path, f"custody_{name}", f" {text}\n")
    if partner := PARTNERS.get(name):
        credential(tmp_path, f"custody_{partner}", "PEM")
    if name in PATHS:
        # It is the file itself, and not a path to one.
        meaning = tmp_path / f"custody_{name}"
    assert getattr(load(environ), name) == meaning
    assert unknown_names(environ) == {}


def test_credential_of_a_file_is_not_read_as_text(tmp_path: Path) -> None:
    environ = credential(tmp_path, "custody_jwks_file", b"\xff" * 100_000)
    assert load(environ).jwks_file == tmp_path / "custody_jwks_file"


def test_precedence_of_a_credential(tmp_path: Path) -> None:
    config = toml(tmp_path, 'jwt_audience = "of the TOML file"\nrate_limit = 7\nkek = "env:TOML"')
    (tmp_path / "credentials").mkdir()
    given = credential(tmp_path / "credentials", "custody_jwt_audience", "of the credential")
    given |= credential(tmp_path / "credentials", "custody_kek", "env:CREDENTIAL")
    settings = load(config | given)
    assert (settings.jwt_audience, settings.kek) == ("of the credential", "env:CREDENTIAL")
    assert settings.rate_limit == 7
    (tmp_path / "value").write_text("of the variable's file", encoding="utf-8")
    variables = {
        "CUSTODY_JWT_AUDIENCE_FILE": str(tmp_path / "value"),
        "CUSTODY_KEK": "env:VARIABLE",
    }
    settings = load(config | given | variables)
    assert (settings.jwt_audience, settings.kek) == ("of the variable's file", "env:VARIABLE")


@pytest.mark.parametrize("content", ["", " \n"])
def test_empty_credential_is_not_set(tmp_path: Path, content: str) -> None:
    config = toml(tmp_path, 'jwt_audience = "of the file"')
    (tmp_path / "credentials").mkdir()
    given = credential(tmp_path / "credentials", "custody_jwt_audience", content)
    given |= credential(tmp_path / "credentials", "custody_database_url", content)
    settings = load(config | given)
    assert settings.jwt_audience == "of the file"
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe" + NEEDLE.encode(), "not UTF-8 text"),
        (NEEDLE.encode() * 20_000, "larger than 65536 bytes"),
    ],
    ids=["latin", "large"],
)
def test_unreadable_credential(tmp_path: Path, content: bytes, problem: str) -> None:
    message = refusal(credential(tmp_path, "custody_database_url", content))
    assert message == f"the credential custody_database_url: {problem}"


def test_credential_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "custody_database_url").mkdir()
    message = refusal({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert message == "the credential custody_database_url: Is a directory"


@pytest.mark.parametrize("name", ["missing", "file"])
def test_unreadable_folder_of_credentials(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text(NEEDLE, encoding="utf-8")
    message = refusal({"CREDENTIALS_DIRECTORY": str(tmp_path / name)})
    assert message.startswith(f"CREDENTIALS_DIRECTORY names {tmp_path / name}: ")


def test_no_folder_of_credentials() -> None:
    assert load({"CREDENTIALS_DIRECTORY": ""}) == load({})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in NAMES for value in BAD.get(name, ())]
)
def test_bad_value_in_a_credential(tmp_path: Path, name: str, value: str) -> None:
    if value != value.strip():
        return  # the blanks around a credential don't count
    message = refusal(credential(tmp_path, f"custody_{name}", value))
    assert f"CUSTODY_{name.upper()}" in message
    assert len(message) > len(name) + 20


def test_misspelt_credentials(tmp_path: Path) -> None:
    for name in (*NAMES, "databse_url", "KEK", "kek_file"):
        credential(tmp_path, f"custody_{name}", NEEDLE)
    for other in ("kek", "kek_2026", "Custody_listen", "custody-listen"):
        credential(tmp_path, other, NEEDLE)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CUSTODY_LISTN": "x"}
    assert unknown_names(environ) == {
        "CUSTODY_LISTN": "did you mean CUSTODY_LISTEN?",
        "custody_KEK": "did you mean custody_kek?",
        "custody_databse_url": "did you mean custody_database_url?",
        "custody_kek_file": "did you mean custody_kek?",
    }
