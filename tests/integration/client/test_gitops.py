"""Files in git as a pipeline keeps them: `diff`, then `apply --prune`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.client import Client
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import JobRow, ProjectRow

from .conftest import Platform
from .test_cli import Cli, cli

__all__ = ["cli"]
SERVICE = "kind: service\nname: {}\nmodel: /models/m\n"
JOB = "kind: command\nname: {}\ncommand: 'true'\n"


@pytest.fixture
def database(platform: Platform) -> Iterator[Database]:
    """The platform's own, for what no command does."""
    database = Database.open(platform.home.database_url)
    yield database
    database.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with folders, and two documents in one file."""
    root = tmp_path / "deploy"
    (root / "serve" / "small").mkdir(parents=True)
    (root / "jobs.yaml").write_text(JOB.format("one") + "---\n" + JOB.format("two"))
    (root / "serve" / "chat.yaml").write_text(SERVICE.format("chat"))
    (root / "serve" / "small" / "embed.yml").write_text(SERVICE.format("embed"))
    (root / ".github").mkdir()
    (root / ".github" / "ci.yaml").write_text("on: push\n")
    return root


def names(client: Client) -> list[str]:
    return sorted(service.name for service in client.services.list() if service.desired == "run")


def test_a_folder_becomes_what_is_there_and_diff_agrees(
    cli: Cli, client: Client, tree: Path
) -> None:
    folder = ("-f", str(tree))
    before = cli("diff", *folder, "--prune")
    assert before.code == 1 and before.out.count("+name: ") == 4
    assert cli("apply", *folder, "--dry-run").code == 0 and names(client) == []
    assert cli("apply", *folder, "--prune").code == 0
    assert names(client) == ["chat", "embed"]
    assert sorted(job.name for job in client.jobs.list()) == ["one", "two"]
    same = cli("diff", *folder, "--prune")
    assert (same.code, same.out, same.err) == (0, "", "")
    assert all(" unchanged" in line for line in cli("apply", *folder).out.splitlines())


def test_prune_deletes_services_that_left_the_files_and_nothing_else(
    cli: Cli, client: Client, database: Database, tree: Path
) -> None:
    with database.write() as session:
        session.add(ProjectRow(name="other"))
    cli("apply", "-f", str(tree))
    cli("apply", "-f", "-", stdin=SERVICE.format("theirs") + "project: other\n")
    needed = "---\n".join(SERVICE.format(name) for name in ("spare", "shadow", "guard"))
    cli("apply", "-f", "-", stdin=needed)
    (tree / "jobs.yaml").unlink()
    (tree / "serve" / "small" / "embed.yml").unlink()
    (tree / "serve" / "chat.yaml").write_text(
        SERVICE.format("chat") + "fallback: spare\nmirror: {service: shadow}\n"
    )
    (tree / "serve" / "safe.yaml").write_text(
        "kind: service\nname: safe\nchain: [{guard: guard}, {model: chat}]\n"
    )
    shown = cli("diff", "-f", str(tree), "--prune")
    assert shown.code == 1
    assert "--- service/embed (now)\n+++ /dev/null\n" in shown.out
    for kept in ("spare", "shadow", "guard", "theirs"):
        assert f"--- service/{kept}" not in shown.out
    dry = cli("apply", "-f", str(tree), "--prune", "--dry-run").out
    assert "service/embed deleted · not in the files (dry run)" in dry
    assert "embed" in names(client)
    done = cli("apply", "-f", str(tree), "--prune")
    assert done.out.count(" deleted ") == 1, done.out + done.err
    assert names(client) == ["chat", "guard", "safe", "shadow", "spare"]
    assert {job.desired for job in client.jobs.list()} == {"run"}, "jobs are history"
    assert cli("services", "--project", "other", "-o", "name").out == "service/theirs\n"


def test_an_empty_folder_prunes_nothing(cli: Cli, client: Client, tree: Path) -> None:
    cli("apply", "-f", str(tree))
    for file in [*tree.rglob("*.yaml"), *tree.rglob("*.yml")]:
        file.unlink()
    assert cli("apply", "-f", str(tree), "--prune").code == 1
    assert cli("diff", "-f", str(tree), "--prune").code == 2
    assert names(client) == ["chat", "embed"]


def test_one_mistake_and_nothing_is_applied(cli: Cli, client: Client, tree: Path) -> None:
    wrong = tree / "serve" / "wrong.yaml"
    wrong.write_text(SERVICE.format("wrong") + "replica: 2\n")
    said = cli("apply", "-f", str(tree), "--prune")
    assert said.code == 1 and f"{wrong}:4: replica" in said.err
    wrong.write_text(SERVICE.format("chat"))
    said = cli("apply", "-f", str(tree))
    assert said.code == 1 and "service/chat is in " in said.err
    assert names(client) == []


def test_diff_tells_errors_from_differences(
    cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("diff", "-f", str(tree / "none")).code == 2
    (tree / "wrong.yaml").write_text("kind: nothing\n")
    assert cli("diff", "-f", str(tree)).code == 2
    (tree / "wrong.yaml").unlink()
    assert cli("diff").code == 2
    monkeypatch.setenv("QUARTERDECK_KEY", "qd_" + "x" * 43)
    said = cli("diff", "-f", str(tree))
    assert said.code == 2 and "error: " in said.err
    monkeypatch.delenv("QUARTERDECK_KEY")
    monkeypatch.setenv("QUARTERDECK_URL", "http://127.0.0.1:9")
    assert cli("diff", "-f", str(tree)).code == 2


def test_what_somebody_changed_by_hand_is_seen(cli: Cli, tree: Path) -> None:
    folder = ("-f", str(tree))
    cli("apply", *folder)
    cli("scale", "service/chat", "--replicas", "3")
    shown = cli("diff", *folder)
    assert shown.code == 1 and "-replicas: 3\n+replicas: 1\n" in shown.out
    cli("apply", *folder)
    assert cli("diff", *folder).code == 0
    cli("delete", "service/chat")
    shown = cli("diff", *folder)
    assert shown.code == 1 and "+name: chat" in shown.out
    assert "service/chat created" in cli("apply", *folder).out


def test_a_job_that_did_not_succeed_is_submitted_again_and_diff_says_so(
    cli: Cli, tree: Path, database: Database
) -> None:
    folder = ("-f", str(tree))
    cli("apply", *folder)
    cli("cancel", "job/two")
    shown = cli("diff", *folder)
    assert shown.code == 1 and "apply submits it again" in shown.out
    assert "job/two created" in cli("apply", *folder, "--dry-run").out
    with database.write() as session:
        for row in session.query(JobRow):
            row.phase, row.desired = "succeeded", "run"
    assert cli("diff", *folder).code == 0, "what succeeded is done"


def test_files_of_several_projects(cli: Cli, database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.add(ProjectRow(name="team"))
    file = tmp_path / "two.yaml"
    chat = SERVICE.format("chat")
    file.write_text(f"{chat}---\n{chat}project: team\nreplicas: 2\n")
    assert cli("apply", "-f", str(file)).code == 0
    same = cli("diff", "-f", str(file))
    assert (same.code, same.out) == (0, "")
    file.write_text(chat + "replicas: 2\n")
    assert cli("diff", "-f", str(file), "--project", "team").code == 0
    assert cli("diff", "-f", str(file)).code == 1
