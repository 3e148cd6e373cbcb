"""`quarterdeck prepare`: each container's part of the secrets in a folder of its own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import make_url

from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.preparation import hand_out_agent_key, hand_out_database
from tests.integration.processes.conftest import Machine

URL = "postgresql+psycopg://quarterdeck@postgres/quarterdeck"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "handed-out"
    folder.mkdir(mode=0o750)
    return folder


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_gateway_and_machines_get_the_agents_key_alone(tmp_path: Path, folder: Path) -> None:
    home = Home(tmp_path / "home")
    hand_out_agent_key(home, folder)
    assert modes(folder) == {"key": 0o600}
    assert (folder / "key").read_text() == home.agent_key.read_text()
    before = home.master_key.read_text()
    hand_out_agent_key(home, folder)
    assert (folder / "key").read_text() == home.agent_key.read_text()
    assert home.master_key.read_text() == before


def test_the_server_gets_the_password_and_not_the_url(folder: Path) -> None:
    hand_out_database(folder, URL)
    assert modes(folder) == {"password": 0o640, "url": 0o600}
    password = (folder / "password").read_text()
    assert len(password) == 64
    whole = f"postgresql+psycopg://quarterdeck:{password}@postgres/quarterdeck"
    assert (folder / "url").read_text() == whole
    hand_out_database(folder, URL)
    assert (folder / "password").read_text() == password
    hand_out_database(folder, URL.replace("@postgres", "@elsewhere:5433"))
    assert (folder / "url").read_text() == whole.replace("@postgres", "@elsewhere:5433")


def test_two_passwords_differ(tmp_path: Path) -> None:
    passwords = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hand_out_database(tmp_path / name, URL)
        passwords.add((tmp_path / name / "password").read_text())
    assert len(passwords) == 2


def test_a_given_password_is_taken_as_it_is(folder: Path) -> None:
    hand_out_database(folder, URL, "p@ss/w:rd%")
    assert (folder / "password").read_text() == "p@ss/w:rd%"
    written = make_url((folder / "url").read_text())
    assert (written.password, written.host) == ("p@ss/w:rd%", "postgres")
    with pytest.raises(ProcessFailed, match=r"holds another password.*ALTER ROLE"):
        hand_out_database(folder, URL, "another")
    assert (folder / "password").read_text() == "p@ss/w:rd%"


@pytest.mark.parametrize(
    ("url", "password", "said"),
    [
        ("postgresql+psycopg://u:secret@h/d", None, "holds a password"),
        ("postgresql+psycopg://h/d", None, "write postgresql"),
        ("sqlite:///x.db", None, "write postgresql"),
        (URL, "", "is empty"),
        (URL, "two\nlines", "line break"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    folder: Path, url: str, password: str | None, said: str
) -> None:
    with pytest.raises(ProcessFailed, match=said) as refused:
        hand_out_database(folder, url, password)
    assert "secret" not in str(refused.value)
    assert modes(folder) == {}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="the folder must exist and belong to user"):
        hand_out_database(tmp_path / "gone", URL)


def test_the_command_says_where_and_never_what(machine: Machine, folder: Path) -> None:
    both = ("prepare", "--agent-key", str(folder), "--database", str(folder))
    done = machine.run(*both)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder / "url"), str(folder / "key")]
    assert machine.run("prepare").returncode == 2
