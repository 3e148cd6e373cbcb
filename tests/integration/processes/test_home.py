"""The home folder: found, made once, private."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quarterdeck.client import ConfigurationError
from quarterdeck.client.config import discover, find_home, read_key
from quarterdeck.processes.home import Home, choose_home, prepare


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "project" / ".quarterdeck")
    prepare(home)
    home.url_file.write_text("http://127.0.0.1:9000\n")
    return home


def test_keys_are_private_different_and_kept(home: Home) -> None:
    files = [home.admin_key, home.agent_key, home.master_key, home.ray / "token", home.instance]
    texts = [file.read_text() for file in files]
    assert len(set(texts)) == len(files)
    assert [_mode(file) for file in files] == [0o600] * len(files)
    assert [_mode(home.folder), _mode(home.admin_key.parent), _mode(home.logs)] == [0o700] * 3
    prepare(home)
    assert [file.read_text() for file in files] == texts


def test_the_master_key_is_a_fernet_key(home: Home) -> None:
    from cryptography.fernet import Fernet

    fernet = Fernet(read_key(home.master_key))
    assert fernet.decrypt(fernet.encrypt(b"secret")) == b"secret"


def test_git_does_not_see_it(home: Home) -> None:
    assert (home.folder / ".gitignore").read_text() == "*\n"


def test_it_is_found_from_below(home: Home, tmp_path: Path) -> None:
    below = home.folder.parent / "a" / "b"
    below.mkdir(parents=True)
    assert choose_home({}, below, tmp_path / "nobody") == home
    found = discover({}, below, tmp_path / "nobody")
    assert (found.url, found.key) == ("http://127.0.0.1:9000", home.admin_key.read_text())


def test_the_environment_goes_first(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert find_home({"QUARTERDECK_HOME": str(other)}, home.folder, tmp_path) == other
    variables = {"QUARTERDECK_URL": "http://elsewhere", "QUARTERDECK_KEY": "qd_x"}
    found = discover(variables, home.folder.parent, tmp_path)
    assert (found.url, found.key) == ("http://elsewhere", "qd_x")


def test_where_there_is_none_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run `quarterdeck up`"):
        discover({}, tmp_path, tmp_path)
    assert choose_home({}, tmp_path, tmp_path).folder == tmp_path / ".quarterdeck"
    with pytest.raises(FileNotFoundError):
        choose_home({}, tmp_path, tmp_path, create=False)


def test_a_key_that_others_can_read_is_refused(home: Home, tmp_path: Path) -> None:
    home.admin_key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        discover({}, home.folder.parent, tmp_path)


def test_a_mounted_key_is_read_through_its_group(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.admin_key.chmod(0o440)
    text = home.admin_key.read_text()
    with pytest.raises(ConfigurationError, match="mode 440"):
        read_key(home.admin_key)
    monkeypatch.setattr("os.geteuid", lambda: home.admin_key.stat().st_uid + 1)
    assert read_key(home.admin_key) == text
    for mode in (0o444, 0o460):
        home.admin_key.chmod(mode)
        with pytest.raises(ConfigurationError, match="defaultMode 0440"):
            read_key(home.admin_key)


def test_keys_do_not_show(home: Home, tmp_path: Path) -> None:
    found = discover({}, home.folder.parent, tmp_path)
    assert found.key is not None and found.key not in repr(found)
