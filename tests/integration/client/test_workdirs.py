"""`workdir` from the command line: packed, sent once, and told of."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from quarterdeck.artifacts import unpack
from quarterdeck.cli.workdirs import Bar
from quarterdeck.client import Client, QuarterdeckError

from .conftest import Platform
from .test_cli import Cli, cli  # noqa: F401

GIT = {
    **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)\n")
    (folder / "token.env").write_text("TOKEN=old\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", folder, *command], env=GIT, check=True)
    return folder


def uploads(platform: Platform) -> list[Path]:
    folder = platform.home.folder / "artifacts" / "uploads"
    return [path for path in folder.rglob("*") if path.is_file()]


def test_submit_sends_the_folder_once_and_describe_tells_its_source(
    cli: Cli,  # noqa: F811
    platform: Platform,
    code: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(code)
    (code / "train.py").write_text("print(2)\n")
    (code / "token.env").write_text("TOKEN=s3cret\n")
    (code / ".quarterdeckignore").write_text("*.env\n")
    said = cli("submit", "-d", "--name", "one", "--", "python", "train.py")
    assert said.code == 0 and "workdir .: 2 files" in said.err, said.err
    (job,) = client.jobs.list()
    upload = job.spec["workdir"]
    assert upload["dirty"] and upload["files"] == 2
    (kept,) = (path for path in uploads(platform) if path.name == upload["digest"])
    with kept.open("rb") as stream:
        unpack(stream, tmp_path / "out", digest=upload["digest"], size=upload["size"])
    assert (tmp_path / "out" / "train.py").read_text() == "print(2)\n"
    shown = cli("describe", "job/one").out
    assert f"{code} at commit {upload['commit']}, with changes" in shown
    assert "+print(2)" in shown and "s3cret" not in shown

    before = {path: path.stat().st_mtime_ns for path in uploads(platform)}
    assert cli("submit", "-d", "--name", "two", "--", "python", "train.py").code == 0
    assert {path: path.stat().st_mtime_ns for path in uploads(platform)} == before
    assert client.jobs.get("two").spec["workdir"]["digest"] == upload["digest"]
    bare = ("--no-workdir", "--setup", "pip install x", "--", "true")
    assert cli("submit", "-d", "--name", "three", *bare).code == 0
    assert client.jobs.get("three").spec["setup"] == "pip install x"
    assert client.jobs.get("three").spec["workdir"] is None


def test_apply_takes_paths_from_the_file_and_knows_what_is_unchanged(
    cli: Cli,  # noqa: F811
    code: Path,
    client: Client,
) -> None:
    file = code.parent / "job.yaml"
    file.write_text("kind: command\nname: c\ncommand: python train.py\nworkdir: code\n")
    assert cli("diff", "-f", str(file)).code == 1
    assert "dry run" in cli("apply", "--dry-run", "-f", str(file)).out
    assert cli("apply", "-f", str(file)).out.startswith("job/c created")
    assert client.jobs.get("c").spec["workdir"]["dirty"] is False
    assert "unchanged" in cli("apply", "-f", str(file)).out
    assert cli("diff", "-f", str(file)).code == 0
    (code / "train.py").write_text("print(3)\n")
    assert cli("diff", "-f", str(file)).code == 1
    changed = cli("apply", "-f", str(file))
    assert changed.code == 1 and "workdir" in changed.err
    file.write_text("kind: command\nname: d\ncommand: 'true'\nworkdir: nowhere\n")
    missing = cli("apply", "-f", str(file))
    assert missing.code == 1 and "nowhere' is no folder" in missing.err


def test_a_file_that_changes_while_it_is_sent_is_refused(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "log").write_text("a")

    def grow(what: str, done: int, total: int) -> None:
        if what == "packing" and done == total:
            (folder / "log").write_text("b")

    with pytest.raises(QuarterdeckError, match="digest"):
        client.uploads.folder(folder, progress=grow)
    found = client.uploads.folder(folder)
    content = client.uploads.content(found.digest)
    assert unpack(io.BytesIO(content), tmp_path / "g", digest=found.digest, size=found.size) == 1


def test_progress_is_shown_after_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    bar = Bar(lambda: now)
    for now in (0.0, 1.9, 2.1, 2.2, 5.0):
        bar("uploading", int(now * 2**20), 10 * 2**20)
    bar.end()
    assert capsys.readouterr().err.splitlines() == [
        "uploading 2.1 MiB of 10.0 MiB (21%)", "uploading 5.0 MiB of 10.0 MiB (50%)",
    ]  # fmt: skip
