"""Who does not migrate waits for who does; and an older version serves on under a newer schema."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from quarterdeck.processes.db import upgrade_database, wait_for_schema
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate
from quarterdeck.store.sessions import Database
from tests.integration.processes.conftest import Machine, free_port


def newer(url: str) -> None:
    """What a database looks like after the next version's migration, which only expands."""
    database = Database.open(url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()


def test_it_waits_for_the_migration(database_url: str) -> None:
    said: list[str] = []
    with pytest.raises(ProcessFailed, match=r"revision none.*run `quarterdeck db upgrade`"):
        wait_for_schema(database_url, 0, said.append)
    assert len(said) == 1 and said[0].startswith("waiting: ")
    timer = threading.Timer(0.5, migrate.upgrade, (database_url,))
    timer.start()
    assert migrate.head_revision() in wait_for_schema(database_url, 60, said.append)
    timer.join()
    newer(database_url)
    assert "9999" in wait_for_schema(database_url, 0, said.append)


def test_it_waits_for_the_database() -> None:
    with pytest.raises(ProcessFailed, match=r"the database does not answer: .*refused"):
        wait_for_schema(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none", 0, print)


def test_an_upgrade_waits_for_the_database(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    settings = Settings(Home(tmp_path), url, "memory://", {})
    begun = time.monotonic()
    with pytest.raises(ProcessFailed, match=r"the database does not answer: .*refused"):
        upgrade_database(settings, seconds=1.5)
    assert time.monotonic() - begun > 1.5


def test_a_newer_schema_is_an_error_unless_it_is_allowed(database_url: str, tmp_path: Path) -> None:
    settings = Settings(Home(tmp_path), database_url, "memory://", {})
    assert migrate.head_revision() in upgrade_database(settings, allow_newer=True)
    newer(database_url)
    with pytest.raises(ProcessFailed, match="install the newer version"):
        upgrade_database(settings)
    assert upgrade_database(settings, allow_newer=True).startswith("nothing to do")
    assert migrate.current_revision(database_url) == "9999"


def until(url: str, status: int) -> httpx.Response:
    last: object = None
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            answer = httpx.get(url, timeout=2, trust_env=False)
        except httpx.HTTPError as error:
            last = error
        else:
            if answer.status_code == status:
                return answer
            last = answer.text
        time.sleep(0.1)
    pytest.fail(f"{url} never answered {status}: {last}")


def test_an_api_that_does_not_migrate_serves_under_a_newer_schema(machine: Machine) -> None:
    assert machine.run("db", "upgrade").returncode == 0
    newer(machine.home.database_url)
    refused = machine.run("api", "--port", str(machine.port))
    assert refused.returncode != 0
    api = machine.start("api", "--no-migrate", "--port", str(machine.port))
    try:
        until(f"http://127.0.0.1:{machine.port}/readyz", 200)
    finally:
        api.send_signal(signal.SIGTERM)
        api.communicate(timeout=30)


def test_a_controller_tells_how_it_is(machine: Machine) -> None:
    controller = machine.start("controller", "--health-port", str(machine.port))
    url = f"http://127.0.0.1:{machine.port}"
    try:
        until(f"{url}/healthz", 200)
        assert "waits for the database" in until(f"{url}/readyz", 503).json()["detail"]
        assert machine.run("db", "upgrade").returncode == 0
        until(f"{url}/readyz", 200)
        assert "quarterdeck_controller_turns_total" in httpx.get(f"{url}/metrics").text
    finally:
        controller.send_signal(signal.SIGTERM)
        _, errors = controller.communicate(timeout=30)
    assert controller.returncode == 0, errors


def test_a_taken_health_port_is_said(machine: Machine) -> None:
    first = machine.start("controller", "--health-port", str(machine.port))
    try:
        until(f"http://127.0.0.1:{machine.port}/healthz", 200)
        second = machine.run("controller", "--health-port", str(machine.port))
        assert second.returncode == 1 and "choose another --health-port" in second.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)


def test_keys_come_from_files_and_revoked_ones_stay_revoked(
    machine: Machine, tmp_path: Path
) -> None:
    admin, agent, master = tmp_path / "admin", tmp_path / "agent", tmp_path / "master"
    admin.write_text("qd_" + "a" * 64 + "\n")
    agent.write_text("qd_" + "a" * 64)
    master.write_text("bm8gcGFydGljdWxhciBieXRlcywganVzdCAzMiBvZiA=")
    for file in (admin, agent, master):
        file.chmod(0o400)
    variables = {
        "QUARTERDECK_ADMIN_KEY_FILE": str(admin),
        "QUARTERDECK_AGENT_KEY_FILE": str(agent),
        "QUARTERDECK_MASTER_KEY_FILE": str(master),
    }
    machine.more.update(variables)
    refused = machine.run("api", "--port", str(machine.port))
    assert refused.returncode == 1 and "hold the same key" in refused.stderr
    agent.chmod(0o600)
    agent.write_text("qd_" + "b" * 64)
    url = f"http://127.0.0.1:{machine.port}"
    headers = {"Authorization": "Bearer qd_" + "a" * 64}
    for wanted in (200, 401):
        api = machine.start("api", "--port", str(machine.port))
        try:
            until(f"{url}/readyz", 200)
            answer = httpx.get(f"{url}/api/v1/jobs", headers=headers, trust_env=False)
            assert answer.status_code == wanted
            if wanted == 200:
                found = httpx.get(f"{url}/api/v1/keys", headers=headers, trust_env=False).json()
                key = next(item["id"] for item in found["items"] if item["access"] == "admin")
                httpx.delete(f"{url}/api/v1/keys/{key}", headers=headers, trust_env=False)
        finally:
            api.send_signal(signal.SIGTERM)
            api.communicate(timeout=30)
    assert not (machine.home.folder / "keys" / "admin").exists()
