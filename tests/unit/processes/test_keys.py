"""An installation's keys: the home's own, or files that variables name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home, prepare
from quarterdeck.processes.keys import KeyFile, key_files, read_access_key, read_master_key

MASTER, ACCESS = "QUARTERDECK_MASTER_KEY_FILE", "QUARTERDECK_ADMIN_KEY_FILE"


def written(folder: Path, text: str, mode: int = 0o400) -> Path:
    file = folder / "key"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_without_variables_the_home_has_them(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    keys = key_files({MASTER: ""}, home)
    assert keys.homes_own() == {home.master_key, home.admin_key, home.agent_key}
    prepare(home, keys=keys.homes_own())
    assert read_master_key(keys.master) == home.master_key.read_text()
    assert read_access_key(keys.admin) == home.admin_key.read_text()
    assert read_access_key(keys.agent) == home.agent_key.read_text()


def test_a_key_that_a_variable_names_is_not_made_in_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    named = {
        "QUARTERDECK_ADMIN_KEY_FILE": str(written(tmp_path, "qd_" + "a" * 64 + "\n")),
        "QUARTERDECK_AGENT_KEY_FILE": "/etc/agent",
    }
    keys = key_files(named, home)
    prepare(home, keys=keys.homes_own())
    assert [file.name for file in (home.folder / "keys").iterdir()] == ["master"]
    assert read_access_key(keys.admin) == "qd_" + "a" * 64
    assert keys.agent.path == Path("/etc/agent")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"is empty.*or unset the variable"),
        ("qd_short", "44 characters; make one with: openssl rand -base64 32"),
        (base64.urlsafe_b64encode(bytes(31)).decode(), "32 bytes"),
        ("!" * 44, "no master key"),
    ],
)
def test_a_malformed_master_key_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ProcessFailed, match=says) as refused:
        read_master_key(KeyFile(file, MASTER))
    assert str(refused.value).startswith(f"{MASTER}: {file}")


@pytest.mark.parametrize(
    "text", ["qd_short", "a" * 64, "qd_" + "a" * 60 + " b", "qd_" + "ä" * 64, "qd_" + "a" * 129]
)
def test_a_malformed_key_is_refused(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ProcessFailed, match="openssl rand -hex 32") as refused:
        read_access_key(KeyFile(file, ACCESS))
    assert ACCESS in str(refused.value) and str(file) in str(refused.value)
    assert text not in str(refused.value)


def test_a_missing_key_names_variable_file_and_remedy(tmp_path: Path) -> None:
    for read in (read_access_key, read_master_key):
        with pytest.raises(
            ProcessFailed, match=rf"^{MASTER}: .*{tmp_path}/none.*mount a secret.*openssl rand"
        ):
            read(KeyFile(tmp_path / "none", MASTER))


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "qd_" + "a" * 64, 0o444)
    with pytest.raises(ProcessFailed, match="defaultMode 0440"):
        read_access_key(KeyFile(file, ACCESS))
