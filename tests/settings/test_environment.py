"""The settings: where they come from, what is refused and how it is said, and that secrets stay hidden."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tokenhub.core.errors import SettingInvalid
from tokenhub.core.keys import mint_key
from tokenhub.environment import (
    TokenhubSettings,
    is_secret,
    load_settings,
    option_names,
    with_data_folder,
    with_generated_secrets,
)
from tokenhub.setting_values import KmsSetting

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
LONG = "a-long-secret-that-must-not-be-shown-0123456789"


def refusal(environment: dict[str, str]) -> str:
    """What loading these variables is refused with."""
    with pytest.raises(SettingInvalid) as caught:
        load_settings(environment)
    return caught.value.message


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where a test's configuration file goes."""
    return tmp_path / "config.yaml"


def test_defaults_hold_without_any_variable_or_file() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.data_dir.name == "var"
    assert settings.https is settings.debug is settings.simulated_provider is False


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(config: Path) -> None:
    config.write_text(
        "settings: {port: 9001, workers: 3, https: true, allowed_hosts: [a.example, b.example]}"
    )
    settings = load_settings({"TOKENHUB_CONFIG": str(config), "TOKENHUB_PORT": "9002"})
    assert (settings.port, settings.workers, settings.backlog) == (9002, 3, 2048)
    assert settings.https is True
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_an_empty_variable_counts_as_absent(config: Path) -> None:
    config.write_text("settings: {port: 9001}")
    assert load_settings({"TOKENHUB_CONFIG": str(config), "TOKENHUB_PORT": ""}).port == 9001


def test_a_file_that_is_named_but_absent_is_refused(config: Path) -> None:
    assert f"there is no file {config}" in refusal({"TOKENHUB_CONFIG": str(config)})


def test_an_unknown_variable_is_named_with_its_near_names() -> None:
    message = refusal({"TOKENHUB_PROT": "1"})
    assert message.startswith("TOKENHUB_PROT (environment): there is no such setting")
    assert "TOKENHUB_PORT" in message


def test_variables_of_others_and_of_credentials_are_left_alone() -> None:
    load_settings({"PORT": "x", "TOKENHUBBUB": "y", "TOKENHUB_CRED_OPENAI_2": LONG})


def test_the_variables_that_kubernetes_adds_are_refused_with_the_way_out() -> None:
    assert "enableServiceLinks: false" in refusal({"TOKENHUB_SERVICE_HOST": "10.0.0.1"})
    assert "enableServiceLinks: false" in refusal({"TOKENHUB_PORT_8080_TCP": "tcp://10.0.0.1:8080"})
    assert "enableServiceLinks: false" in refusal({"TOKENHUB_PORT": "tcp://10.0.0.1:8080"})


def test_every_wrong_setting_is_told_at_once() -> None:
    message = refusal({"TOKENHUB_PORT": "x", "TOKENHUB_WORKERS": "0", "TOKENHUB_NOPE": "1"})
    assert message.count("\n") == 2


def test_an_unknown_key_in_the_file_is_named_with_file_and_line(config: Path) -> None:
    config.write_text("settings:\n  log_level: info\n  worker: 3\nprovider: []\n")
    message = refusal({"TOKENHUB_CONFIG": str(config)})
    assert f"settings.worker ({config}:3): there is no such setting; near names: workers" in message
    assert f"provider ({config}:4): there is no such section" in message


def test_an_invalid_value_in_the_file_is_named_with_file_and_line(config: Path) -> None:
    config.write_text("settings:\n  log_level: info\n  workers: many\n")
    message = refusal({"TOKENHUB_CONFIG": str(config)})
    assert message == f"TOKENHUB_WORKERS ({config}:3): 'many' is no whole number; give one from 1 to 64"


def test_a_secret_in_the_file_is_refused_and_not_repeated(config: Path) -> None:
    config.write_text(f"settings:\n  key_pepper: {LONG}\n")
    message = refusal({"TOKENHUB_CONFIG": str(config)})
    assert f"settings.key_pepper ({config}:2): secrets don't belong" in message
    assert LONG not in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("settings: [", ":1: no valid YAML"),
        ("- a\n", ":1: the file must be a mapping"),
        ("settings:\n  port: 1\n  port: 2\n", ":3: the key 'port' is there twice"),
        ("settings:\n  1: 2\n", ":2: the key '1' must be text"),
        ("settings: 5\n", ":1): must be a mapping of settings"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_the_line(config: Path, text: str, problem: str) -> None:
    config.write_text(text)
    assert problem in refusal({"TOKENHUB_CONFIG": str(config)})


INVALID = {
    "HOST": "two words",
    "PORT": "70000",
    "WORKERS": "1.5",
    "BACKLOG": "1",
    "IDEMPOTENCY_HOURS": "0",
    "CACHE_MOST": "1",
    "DECISIONS_PER_SECOND": "-1",
    "DECISIONS_DAYS": "0",
    "DECISIONS_MOST": "many",
    "HEAD_TIMEOUT": "nan",
    "MAX_HEAD_BYTES": "1",
    "MAX_BODY_BYTES": "-1",
    "BODY_TIMEOUT": "soon",
    "SHUTDOWN_GRACE_SECONDS": "-1",
    "TRUSTED_PROXIES": "proxy.example.com",
    "UPSTREAM_CLIENT": "requests",
    "SIMULATED_PROVIDER": "maybe",
    "DATABASE_URL": "mysql://user:hunter22@host/name",
    "DATABASE_POOL_MIN": "-1",
    "DATABASE_POOL_MAX": "0",
    "SECRET_KEY": "short-secret",
    "KEY_PEPPER": "short-secret",
    "PREVIOUS_KEY_PEPPERS": f"{LONG},short-secret",
    "CLUSTER_SECRET": "short-secret",
    "VAULT_KMS": "aws:eu-central-1",
    "VAULT_KMS_ENDPOINT": "http://kms.example.com/",
    "ADMIN_USERNAME": "admin\n",
    "ADMIN_PASSWORD": "secret",
    "ADMIN_TOKEN": "short-secret",
    "BOOTSTRAP_KEY": mint_key()[:-1] + "!",
    "ALLOWED_HOSTS": "https://hub.example.com",
    "CSRF_TRUSTED_ORIGINS": "hub.example.com",
    "HTTPS": "2",
    "REQUIRE_MFA": "everybody",
    "DEBUG": "perhaps",
    "LOG_LEVEL": "loud",
    "LOG_FORMAT": "xml",
    "METRICS_TOKEN": "tiny-one",
    "METRICS_ALLOW": "10.0.0.1/8",
    "ALLOW_PRIVATE_ORIGINS": "*",
}
ANYTHING_GOES = {"data_dir", "config", "credentials_dir", "static_root", "vault_key_file"}


def test_every_setting_with_bounds_has_an_invalid_example_here() -> None:
    assert {name.lower() for name in INVALID} == set(option_names()) - ANYTHING_GOES


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_is_refused_by_name_and_source_and_secrets_are_not_shown(name: str) -> None:
    message = refusal({f"TOKENHUB_{name}": INVALID[name]})
    assert message.startswith(f"TOKENHUB_{name} (environment): ")
    shown = INVALID[name] in message or repr(INVALID[name]) in message
    assert shown is not is_secret(name.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"aws:{ARN}", KmsSetting("aws", ARN, "eu-central-1")),
        ("aws:us-east-1/alias/tokenhub", KmsSetting("aws", "alias/tokenhub", "us-east-1")),
        ("aws:us-east-1/1234abcd-12ab", KmsSetting("aws", "1234abcd-12ab", "us-east-1")),
        ("software:/etc/kms key", KmsSetting("software", "/etc/kms key")),
    ],
)
def test_a_kms_is_read_with_its_region(text: str, expected: KmsSetting) -> None:
    assert load_settings({"TOKENHUB_VAULT_KMS": text}).vault_kms == expected


@pytest.mark.parametrize(
    "text", ["aws:", "aws:/key", "software:relative", "gcp:key", "aws:evil.example/key", "aws:eu-west-1/a b"]
)
def test_what_names_no_kms_is_refused(text: str) -> None:
    assert "names no key management service" in refusal({"TOKENHUB_VAULT_KMS": text})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com",
            "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com/",
        ),
        ("http://127.0.0.1:8443/", "http://127.0.0.1:8443/"),
        ("http://10.0.0.1/", None),
        ("https://user:word@kms.example.com/", None),
        ("https://kms.example.com/path", None),
        ("https://kms.example.com:70000/", None),
        ("kms.example.com", None),
    ],
)
def test_a_kms_endpoint_is_https_but_on_this_machine(url: str, expected: str | None) -> None:
    if expected is None:
        assert "is no URL such as" in refusal({"TOKENHUB_VAULT_KMS_ENDPOINT": url})
    else:
        assert load_settings({"TOKENHUB_VAULT_KMS_ENDPOINT": url}).vault_kms_endpoint == expected


def test_contradictions_are_refused() -> None:
    assert "TOKENHUB_DATABASE_POOL_MAX" in refusal({"TOKENHUB_DATABASE_POOL_MIN": "20"})
    assert "TOKENHUB_HTTPS" in refusal({"TOKENHUB_DEBUG": "true", "TOKENHUB_HTTPS": "true"})


def test_a_secret_may_come_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_text(LONG + "\n")
    assert load_settings({"TOKENHUB_KEY_PEPPER_FILE": str(file)}).key_pepper == LONG.encode()


def test_a_secret_from_two_places_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_text(LONG)
    message = refusal({"TOKENHUB_KEY_PEPPER_FILE": str(file), "TOKENHUB_KEY_PEPPER": LONG})
    assert "TOKENHUB_KEY_PEPPER_FILE is set too" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "can't be read"), (b"\n", "is empty"), (b"\xff\xfe", "is not text"), (b"hunter22", "is shorter")],
)
def test_a_secret_file_that_is_no_good_is_named_without_its_content(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "pepper"
    if content is not None:
        file.write_bytes(content)
    message = refusal({"TOKENHUB_KEY_PEPPER_FILE": str(file)})
    assert problem in message
    assert str(file) in message
    assert "TOKENHUB_KEY_PEPPER" in message
    assert "hunter22" not in message


def test_what_is_no_secret_has_no_file_variant(tmp_path: Path) -> None:
    assert "there is no such setting" in refusal({"TOKENHUB_PORT_FILE": str(tmp_path)})


def test_neither_repr_nor_str_shows_a_secret() -> None:
    secrets = {
        "TOKENHUB_DATABASE_URL": f"postgres://user:{LONG}@host/name",
        "TOKENHUB_SECRET_KEY": LONG,
        "TOKENHUB_KEY_PEPPER": LONG,
        "TOKENHUB_PREVIOUS_KEY_PEPPERS": LONG,
        "TOKENHUB_CLUSTER_SECRET": LONG,
        "TOKENHUB_ADMIN_PASSWORD": LONG,
        "TOKENHUB_ADMIN_TOKEN": LONG,
        "TOKENHUB_METRICS_TOKEN": LONG,
        "TOKENHUB_BOOTSTRAP_KEY": mint_key(),
    }
    settings = load_settings(secrets)
    for shown in (repr(settings), str(settings), f"{settings!r:s}"):
        assert LONG not in shown
        assert secrets["TOKENHUB_BOOTSTRAP_KEY"] not in shown
        assert "port=8080" in shown
    assert {name.upper() for name in option_names() if is_secret(name)} == {
        name.removeprefix("TOKENHUB_") for name in secrets
    }


def test_settings_read_by_name_as_by_attribute() -> None:
    settings = load_settings({})
    assert settings["PORT"] == settings["port"] == settings.port
    with pytest.raises(KeyError):
        settings["peppers"]


def test_peppers_are_numbered_from_the_oldest() -> None:
    old, older = LONG + "-old", LONG + "-older"
    settings = load_settings(
        {"TOKENHUB_KEY_PEPPER": LONG, "TOKENHUB_PREVIOUS_KEY_PEPPERS": f"{older}, {old}"}
    )
    assert settings.peppers == {1: older.encode(), 2: old.encode(), 3: LONG.encode()}


def test_secrets_are_made_once_and_are_for_the_owner_only(tmp_path: Path) -> None:
    settings = TokenhubSettings(data_dir=tmp_path / "data")
    first, second = with_generated_secrets(settings), with_generated_secrets(settings)
    assert (first.secret_key, first.key_pepper) == (second.secret_key, second.key_pepper)
    assert len(first.secret_key) >= 50
    assert first.secret_key.encode() != first.key_pepper
    for name in ("secret_key", "key_pepper"):
        assert stat.S_IMODE((tmp_path / "data" / "secrets" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data" / "secrets").stat().st_mode) == 0o700


def test_starts_at_the_same_time_agree_on_one_secret(tmp_path: Path) -> None:
    settings = TokenhubSettings(data_dir=tmp_path)
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: with_generated_secrets(settings).key_pepper, range(64)))
    assert len(set(made)) == 1
    assert sorted(path.name for path in (tmp_path / "secrets").iterdir()) == ["key_pepper", "secret_key"]


def test_given_secrets_leave_the_data_folder_alone(tmp_path: Path) -> None:
    settings = TokenhubSettings(data_dir=tmp_path, secret_key=LONG, key_pepper=LONG.encode())
    assert with_generated_secrets(settings) == settings
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(SettingInvalid, match="TOKENHUB_DATA_DIR"):
        with_generated_secrets(TokenhubSettings(data_dir=tmp_path / "data"))


def mode_of(folder: Path) -> int:
    """Its permissions."""
    return stat.S_IMODE(folder.stat().st_mode)


def test_the_data_folder_is_made_for_the_owner_only(tmp_path: Path) -> None:
    settings = TokenhubSettings(data_dir=tmp_path / "new" / "data", secret_key=LONG, key_pepper=LONG.encode())
    assert with_data_folder(settings) is settings
    assert mode_of(settings.data_dir) == 0o700


def test_an_existing_data_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    with_data_folder(TokenhubSettings(data_dir=tmp_path / "data"))
    assert mode_of(tmp_path / "data") == 0o700


def test_a_folder_that_is_shared_on_purpose_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o1777)
    with_data_folder(TokenhubSettings(data_dir=tmp_path / "data"))
    assert mode_of(tmp_path / "data") == 0o1777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_volume_of_somebody_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o775)
    os.chown(tmp_path / "data", 12345, 12345)
    with_data_folder(TokenhubSettings(data_dir=tmp_path / "data"))
    assert mode_of(tmp_path / "data") == 0o775


def test_a_data_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(SettingInvalid, match="TOKENHUB_DATA_DIR"):
        with_data_folder(TokenhubSettings(data_dir=tmp_path / "data"))


def test_a_damaged_secret_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key_pepper").write_text("cut")
    with pytest.raises(SettingInvalid, match="restore it"):
        with_generated_secrets(TokenhubSettings(data_dir=tmp_path))
    assert (tmp_path / "secrets" / "key_pepper").read_text() == "cut"


def test_reading_the_settings_loads_no_django(repository: Path) -> None:
    program = (
        "import os, sys; from tokenhub.environment import load_settings; load_settings({}); "
        "print([name for name in sys.modules if name.split('.')[0] in ('django', 'environ')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_wrong_setting_ends_a_command_with_one_line_and_no_traceback(
    repository: Path, tmp_path: Path
) -> None:
    environment = {"TOKENHUB_PORT": "x", "TOKENHUB_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "manage.py", "serve"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr
        == "tokenhub: TOKENHUB_PORT (environment): 'x' is no whole number; give one from 1 to 65535\n"
    )


def test_the_readme_lists_every_setting_and_no_other(repository: Path) -> None:
    rows = [
        line
        for line in (repository / "README.md").read_text().splitlines()
        if line.startswith("| `TOKENHUB_")
    ]
    listed = {row.split("`")[1] for row in rows}
    assert listed == {f"TOKENHUB_{name.upper()}" for name in option_names()}
