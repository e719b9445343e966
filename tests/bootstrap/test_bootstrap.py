"""The first start and the ones after it: real processes, real databases."""

from __future__ import annotations

import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from providers.mock import closed_port, mock_process
from tests.bootstrap.conftest import Manage, clean_environment
from tokenhub.core.keys import find_key_parts, mint_key
from tokenhub.core.snapshot import decode_snapshot


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query finds in an installation's SQLite."""
    with closing(sqlite3.connect(data / "tokenhub.sqlite3")) as connection:
        return connection.execute(query).fetchall()


def test_the_first_start_prints_what_is_needed_once_and_the_second_no_secret(
    manage: Manage, tmp_path: Path
) -> None:
    first = manage("bootstrap", TOKENHUB_SIMULATED_PROVIDER="true").stdout
    password = re.search(r"admin password +(\S+)", first)
    key = re.search(r"API key +(thk_\S+)", first)
    assert password is not None
    assert key is not None
    assert find_key_parts(key[1]) is not None
    assert "curl http://localhost:8080/v1/chat/completions" in first
    assert "openai.OpenAI(base_url='http://localhost:8080/v1'" in first
    assert "http://localhost:8080/admin/   as admin" in first

    before = rows(tmp_path / "data", "SELECT COUNT(*) FROM vault_auditentry")
    second = manage("bootstrap", TOKENHUB_SIMULATED_PROVIDER="true").stdout
    assert password[1] not in second
    assert "thk_" not in second
    assert "password" not in second
    assert "+ " not in second
    assert "revision 1 is in force" in second
    assert rows(tmp_path / "data", "SELECT COUNT(*) FROM vault_auditentry") == before


def test_the_first_snapshot_holds_the_simulated_models_with_prices_and_the_key(
    manage: Manage, tmp_path: Path
) -> None:
    manage("bootstrap", TOKENHUB_SIMULATED_PROVIDER="true")
    ((payload,),) = rows(tmp_path / "data", "SELECT payload FROM snapshots_configrevision")
    snapshot = decode_snapshot(bytes(payload))
    assert {model.name for model in snapshot.models} == {"sim-small", "sim-large"}
    assert all(model.price is not None and model.context_tokens for model in snapshot.models)
    assert len(snapshot.keys) == 1


def test_no_secret_is_stored_in_the_database(manage: Manage, tmp_path: Path) -> None:
    printed = manage("bootstrap").stdout
    key = re.search(r"API key +(thk_\S+)", printed)
    password = re.search(r"admin password +(\S+)", printed)
    assert key is not None
    assert password is not None
    stored = b"".join(file.read_bytes() for file in (tmp_path / "data").glob("tokenhub.sqlite3*"))
    assert key[1].encode() not in stored
    assert password[1].encode() not in stored


def test_given_password_and_key_are_used_and_not_printed(manage: Manage, tmp_path: Path) -> None:
    key, password = mint_key(), "correct-horse-battery-9"
    given = {
        "TOKENHUB_ADMIN_PASSWORD": password,
        "TOKENHUB_ADMIN_USERNAME": "root",
        "TOKENHUB_BOOTSTRAP_KEY": key,
    }
    done = manage("bootstrap", **given)
    assert key not in done.stdout + done.stderr
    assert password not in done.stdout + done.stderr
    assert rows(tmp_path / "data", "SELECT username, is_superuser FROM auth_user") == [("root", 1)]
    parts = find_key_parts(key)
    assert parts is not None
    assert rows(tmp_path / "data", "SELECT key_id FROM access_apikey") == [(parts.key_id,)]


def test_an_existing_administrator_keeps_their_password(manage: Manage, tmp_path: Path) -> None:
    manage("bootstrap")
    before = rows(tmp_path / "data", "SELECT username, password FROM auth_user")
    manage("bootstrap", TOKENHUB_ADMIN_PASSWORD="another-horse-battery-9", TOKENHUB_ADMIN_USERNAME="root")
    assert rows(tmp_path / "data", "SELECT username, password FROM auth_user") == before


def test_a_weak_password_is_refused_by_name_and_nothing_is_created(manage: Manage, tmp_path: Path) -> None:
    done = manage(
        "bootstrap", code=1, TOKENHUB_ADMIN_PASSWORD="password1", TOKENHUB_SIMULATED_PROVIDER="true"
    )
    assert "TOKENHUB_ADMIN_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr
    assert rows(tmp_path / "data", "SELECT COUNT(*) FROM auth_user") == [(0,)]
    assert rows(tmp_path / "data", "SELECT COUNT(*) FROM providers_provider") == [(0,)]


OFFLINE = """
import socket, sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "localhost", "127.0.0.1"):
        raise socket.gaierror(socket.EAI_AGAIN, "this machine is offline")

sys.addaudithook(refuse)
"""
"""A `sitecustomize` for commands that would ask the vendors themselves: they find the machine without a network."""


def test_the_usual_variables_make_providers_that_refer_to_them(manage: Manage, tmp_path: Path) -> None:
    secret = "sk-test-0123456789abcdef"
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "sitecustomize.py").write_text(OFFLINE)
    vendors = {
        "OPENAI_API_KEY": secret,
        "ANTHROPIC_API_KEY": secret,
        "VLLM_BASE_URL": "http://127.0.0.1:8000/v1/",
        "PYTHONPATH": str(tmp_path / "offline"),
    }
    done = manage("bootstrap", **vendors)
    for name in ("openai", "anthropic"):
        assert f"note: the models of {name} could not be listed" in done.stdout
    assert secret not in done.stdout + done.stderr
    query = (
        "SELECT p.name, p.kind, e.url, c.source, c.reference FROM providers_provider p "
        "JOIN providers_endpoint e ON e.provider_id = p.id JOIN vault_credential c ON c.provider_id = p.id ORDER BY 1"
    )
    assert rows(tmp_path / "data", query) == [
        ("anthropic", "anthropic", "https://api.anthropic.com", "env", "ANTHROPIC_API_KEY"),
        ("openai", "openai", "https://api.openai.com", "env", "OPENAI_API_KEY"),
        ("vllm", "vllm", "http://127.0.0.1:8000", "none", ""),
    ]
    assert "+ " not in manage("bootstrap", **vendors).stdout


def test_the_first_start_takes_over_the_models_of_a_vendor_that_answers(
    manage: Manage, tmp_path: Path
) -> None:
    with mock_process(dialect="vllm", models=("small", "org/large")) as vendor:
        told = {"VLLM_BASE_URL": f"{vendor.origin}/v1"}
        first = manage("bootstrap", **told).stdout
        assert "+ 2 models of vllm" in first
        assert "There are no models yet" not in first
        query = "SELECT name, upstream_name, enabled FROM providers_model ORDER BY name"
        found = [("org/large", "org/large", 1), ("small", "small", 1)]
        assert rows(tmp_path / "data", query) == found
        assert "models of vllm" not in manage("bootstrap", **told).stdout
        assert rows(tmp_path / "data", query) == found
    latest = "SELECT payload FROM snapshots_configrevision ORDER BY revision DESC LIMIT 1"
    ((payload,),) = rows(tmp_path / "data", latest)
    assert {model.name for model in decode_snapshot(bytes(payload)).models} == {"small", "org/large"}


def test_a_vendor_that_can_not_be_reached_is_a_note_and_no_reason_not_to_start(
    manage: Manage, tmp_path: Path
) -> None:
    with closed_port() as port:
        done = manage("bootstrap", VLLM_BASE_URL=f"http://127.0.0.1:{port}")
    assert f"+ provider vllm at http://127.0.0.1:{port}" in done.stdout
    assert "note: the models of vllm could not be listed" in done.stdout
    assert "configuration revision 1 is in force" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert rows(tmp_path / "data", "SELECT COUNT(*) FROM providers_model") == [(0,)]


def test_with_both_secrets_given_the_first_start_makes_the_data_folder(
    manage: Manage, tmp_path: Path
) -> None:
    given = {"TOKENHUB_SECRET_KEY": "s" * 40, "TOKENHUB_KEY_PEPPER": "p" * 40}
    assert "revision 1 is in force" in manage("bootstrap", "--wait", "1", **given).stdout
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_configuration_file_with_a_mistake_stops_the_start_with_its_line(
    manage: Manage, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("providers:\n  - {name: local, kind: nonesuch}\n")
    done = manage("bootstrap", code=1, TOKENHUB_CONFIG=str(config))
    assert f"{config}:2" in done.stderr
    assert "Traceback" not in done.stderr
    assert rows(tmp_path / "data", "SELECT COUNT(*) FROM auth_user") == [(0,)]


def test_two_starts_at_the_same_time_on_one_folder_create_everything_once(
    repository: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "manage.py", "bootstrap"]
    environment = clean_environment(
        tmp_path, TOKENHUB_SIMULATED_PROVIDER="true", TOKENHUB_LOG_LEVEL="warning"
    )
    started = [
        subprocess.Popen(
            command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], printed
    assert sum(b"admin password" in out for out, _ in printed) == 1
    for table, count in (
        ("auth_user", 1),
        ("access_apikey", 1),
        ("providers_provider", 1),
        ("providers_model", 2),
    ):
        assert rows(tmp_path, f"SELECT COUNT(*) FROM {table}") == [(count,)]


def test_two_installations_side_by_side_share_nothing(repository: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        command = [sys.executable, "manage.py", "bootstrap"]
        subprocess.run(
            command, cwd=repository, env=clean_environment(tmp_path / name), check=True, capture_output=True
        )
    keys = {rows(tmp_path / name, "SELECT key_id FROM access_apikey")[0] for name in ("one", "two")}
    peppers = {(tmp_path / name / "secrets" / "key_pepper").read_text() for name in ("one", "two")}
    assert len(keys) == len(peppers) == 2


def test_a_database_that_is_away_is_one_clear_line_without_its_password(manage: Manage) -> None:
    url = "postgres://tokenhub:hunter22hunter22@127.0.0.1:9/tokenhub"
    done = manage("bootstrap", "--wait", "0.5", code=1, TOKENHUB_DATABASE_URL=url)
    assert "the database does not answer" in done.stderr
    assert "hunter22" not in done.stdout + done.stderr


@pytest.mark.database
@pytest.mark.django_db
def test_two_starts_at_the_same_time_on_one_postgres_create_everything_once(
    repository: Path, tmp_path: Path, database_kind: str
) -> None:
    if database_kind != "postgres":
        pytest.skip("needs --database=postgres; the file lock is tested above")
    from django.db import connection  # noqa: PLC0415 - only this test needs Django here

    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('port')")
        port = cursor.fetchone()[0]
    admin = f"postgres://tokenhub@127.0.0.1:{port}/postgres"
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(admin, autocommit=True) as raw:
        raw.execute("CREATE DATABASE bootstrap_race")
    url = f"postgres://tokenhub@127.0.0.1:{port}/bootstrap_race"
    started = [
        subprocess.Popen(
            [sys.executable, "manage.py", "bootstrap"],
            cwd=repository,
            env=clean_environment(
                tmp_path / name, TOKENHUB_DATABASE_URL=url, TOKENHUB_SIMULATED_PROVIDER="true"
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]
    printed = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert sum(b"admin password" in out for out, _ in printed) == 1
    with psycopg.connect(url) as raw:
        assert raw.execute("SELECT COUNT(*) FROM providers_model").fetchone() == (2,)
        assert raw.execute("SELECT COUNT(*) FROM access_apikey").fetchone() == (1,)
