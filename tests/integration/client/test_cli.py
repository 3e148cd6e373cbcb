"""Commands against a real api: what is on stdout, what on stderr, and the exit codes."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from quarterdeck.cli.app import make_app, run
from quarterdeck.client import Client
from quarterdeck.specs.beats import Failure, OutputAsset
from quarterdeck.specs.resources import Job
from quarterdeck.store.sessions import Database
from quarterdeck.store.settings import raise_generation

from .conftest import Platform

HELLO = "kind: command\nname: hello\ncommand: 'true'\nranks: 2\n"


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


Cli = Callable[..., Said]


@pytest.fixture
def cli(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUARTERDECK_HOME", str(platform.home.folder))
    for name in ("QUARTERDECK_URL", "QUARTERDECK_KEY", "QUARTERDECK_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, stdin: str = "") -> Said:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run(make_app(), list(arguments))
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def hello(tmp_path: Path) -> str:
    file = tmp_path / "hello.yaml"
    file.write_text(HELLO)
    return str(file)


def test_apply_creates_once(cli: Cli, hello: str) -> None:
    assert cli("apply", "-f", hello, "--dry-run").out.startswith("job/hello created")
    assert cli("jobs").err == "no jobs\n"
    first = cli("apply", "-f", hello)
    assert first.code == 0 and first.out.startswith("job/hello created · ")
    again = cli("apply", "-f", "-", stdin=HELLO)
    assert again.code == 0 and again.out.startswith("job/hello unchanged")
    assert cli("apply", "-f", hello, "-o", "name").out == "job/hello\n"
    assert json.loads(cli("apply", "-f", hello, "-o", "json").out)["results"][0]["name"] == "hello"


def test_mistakes_are_shown_together_and_nothing_is_sent(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(HELLO + "rank: 3\n---\nkind: comand\n")
    said = cli("apply", "-f", str(file))
    assert (said.code, said.out) == (1, "")
    assert f"{file}:5: rank: 'rank' is not a field here: did you mean 'ranks'?" in said.err
    assert f"{file}:7: kind: 'comand' is not a kind: did you mean 'command'?" in said.err
    assert "2 mistakes: nothing was sent" in said.err


def test_lists_print_what_was_asked_for(cli: Cli, hello: str) -> None:
    cli("apply", "-f", hello)
    header = "NAME KIND PHASE REASON STEP ETA RANKS QUEUE AGE"
    assert " ".join(cli("jobs").rows[0]) == header
    assert cli("jobs").rows[1][:2] == ["hello", "command"]
    assert "MESSAGE" in cli("jobs", "-o", "wide").out
    assert cli("jobs", "-o", "name").out == "job/hello\n"
    (job,) = json.loads(cli("jobs", "-o", "json").out)
    assert YAML(typ="safe", pure=True).load(cli("jobs", "-o", "yaml").out) == [job]
    assert cli("jobs", "--phase", "succeeded").out == ""


def test_diff_says_what_an_apply_would_change(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(HELLO)
    new = cli("diff", "-f", str(file))
    assert new.code == 1 and "+ranks: 2" in new.out
    cli("apply", "-f", str(file))
    same = cli("diff", "-f", str(file))
    assert (same.code, same.out) == (0, "")
    file.write_text(HELLO.replace("ranks: 2", "ranks: 3"))
    changed = cli("diff", "-f", str(file))
    assert changed.code == 1
    assert "-ranks: 2\n+ranks: 3\n" in changed.out


def test_one_job_is_explained(
    cli: Cli, platform: Platform, running_job: Callable[..., Job]
) -> None:
    job = running_job()
    assert job.run_id is not None
    platform.write(job.run_id, "first line")
    assert cli("why", "job/hello").out.startswith("job/hello is running: ")
    described = cli("describe", "job/hello").out
    assert "running" in described and "ranks: 2" in described and job.run_id in described
    assert json.loads(cli("describe", "job/hello", "-o", "json").out)["id"] == job.id
    books = cli("goodput", "job/hello")
    assert books.rows[0][:4] == ["JOB", "ATTEMPTS", "GOODPUT", "HELD"] and books.code == 0
    assert cli("goodput", "--since", "1h").rows[-1][:2] == ["all", "1"]
    logs = cli("logs", "job/hello").out
    assert logs.startswith("[r0 ") and logs.endswith("] first line\n")
    assert "job/hello" in cli("events", "job/hello").out
    assert cli("checkpoints", "job/hello").err == "no checkpoints yet\n"
    assert cli("nodes").rows[1][3:6] == ["alive", "cpu", "2/4"]
    confirm = ("nodes", "confirm-dead", "one", "--reason", "it burnt")
    refused = cli(*confirm)
    assert refused.code == 1 and "alive" in refused.err
    typo = cli(*confirm, "--force", "--confirm", "two")
    assert typo.code == 1 and "nothing was done" in typo.err
    assert cli(*confirm, "--force", "--confirm", "one").out == "node/node-1 confirmed dead\n"
    assert "it burnt" in cli("describe", "node/one").out
    assert cli("clusters", "-o", "name").out == "cluster/local\n"


def test_what_the_roles_of_a_gang_got_is_described(
    cli: Cli, running_job: Callable[..., Job]
) -> None:
    roles = {
        "trainer": {"ranks": 2, "command": "true", "resources": {"accelerator": "CPU"}},
        "driver": {"command": "true", "resources": {"accelerator": "cpu"}},
    }
    running_job("rl", command=None, ranks=3, roles=roles)
    described = cli("describe", "job/rl").out
    assert "roles of attempt 1\n  trainer  ranks 0 to 1  2 × cpu on 1 machine\n" in described
    assert "  driver  rank 2  1 × cpu on 1 machine\n" in described
    assert "2 cpu for trainer, 1 cpu for driver" in described


@pytest.mark.parametrize("restored", [False, True], ids=["first epochs", "after a restore"])
def test_the_reason_of_a_restart_is_seen_also_after_a_success(
    cli: Cli, platform: Platform, client: Client, running_job: Callable[..., Job], restored: bool
) -> None:
    if restored:  # epochs jump then, attempts do not
        database = Database.open(platform.home.database_url)
        with database.write() as session:
            raise_generation(session)
        database.close()
    job = running_job()
    assert job.run_id is not None
    platform.write(job.run_id, "first line")
    failure = Failure(rank=1, blame="node", message="port 1 was taken\nby another program")
    platform.run_beat(job.run_id, "failed", failure=failure)
    platform.work()
    second = client.jobs.get(job.id).run_id
    assert second is not None and second != job.run_id
    platform.write(second, "second line")
    platform.run_beat(second, "succeeded")
    attempts = [row for row in cli("describe", "job/hello").out.splitlines() if "run-" in row]
    epoch = "10002" if restored else "2"
    assert attempts[0].split()[:3] == [epoch, second, "succeeded"] and "port" not in attempts[0]
    assert attempts[1].endswith("  node: port 1 was taken")
    followed = cli("logs", "job/hello", "-f")
    assert [row[-2:] for row in followed.rows] == [["first", "line"], ["second", "line"]]
    assert followed.err == "attempt 1 failed: node: port 1 was taken\n"


def test_exit_codes_tell_how_a_job_ended(
    cli: Cli, platform: Platform, running_job: Callable[..., Job]
) -> None:
    job = running_job(max_restarts=0)
    assert job.run_id is not None
    assert cli("wait", "job/hello", "--until", "running").code == 0
    expired = cli("wait", "job/hello", "--timeout", "0.1s")
    assert expired.code == 5 and "job/hello is running" in expired.err
    failure = Failure(rank=1, blame="user_code", message="ValueError: no", traceback="Traceback: x")
    platform.run_beat(job.run_id, "failed", failure=failure)
    failed = cli("wait", "job/hello")
    assert failed.code == 3 and failed.out == "job/hello failed\n"
    assert "rank 1, blame: user_code: ValueError: no" in failed.err
    assert "Traceback: x" in failed.err
    retried = cli("retry", "job/hello")
    assert retried.code == 0 and retried.out.startswith("job/hello ")
    assert cli("cancel", "job/hello").code == 0
    platform.settle()
    assert cli("wait", "job/hello").code == 4
    assert cli("watch", "job/hello").code == 4
    assert cli("resume", "job/hello").code == 1
    assert cli("wait", "job/none").code == 1
    assert cli("wait", "hello").code == 2
    assert cli("wait", "job/hello", "--until", "done").code == 2
    assert cli("wait", "job/hello", "--timeout", "soon").code == 2
    assert cli("nonsense").code == 2


def test_submit_follows_the_job_to_its_end(cli: Cli, platform: Platform) -> None:
    done = threading.Event()

    def machines() -> None:
        while not platform.orders:
            platform.settle()
            platform.work()
        (run_id,) = platform.orders
        platform.write(run_id, "working")
        platform.run_beat(run_id, "succeeded")
        done.set()

    thread = threading.Thread(target=machines)
    thread.start()
    said = cli("submit", "--ranks", "2", "-e", "A=b", "--", "python", "my train.py")
    thread.join(30)
    assert done.is_set()
    assert said.code == 0, said.err
    assert said.out.startswith("job/my-train-") and "] working" in said.out
    (job,) = json.loads(cli("jobs", "-o", "json").out)
    assert job["spec"]["command"] == "python 'my train.py'"
    assert job["spec"]["env"] == {"A": "b"}
    assert cli("submit", "-e", "oops", "--", "true").code == 2


def test_submit_bounds_time_and_restarts(cli: Cli) -> None:
    said = cli("submit", "-d", "--name", "short", "--max-duration", "90m", "--max-restarts", "0",
               "--", "true")  # fmt: skip
    assert said.code == 0, said.err
    assert cli("submit", "-d", "--name", "plain", "--", "true").code == 0
    jobs = {job["name"]: job["spec"] for job in json.loads(cli("jobs", "-o", "json").out)}
    assert (jobs["short"]["max_duration"], jobs["short"]["max_restarts"]) == (5400.0, 0)
    assert (jobs["plain"]["max_duration"], jobs["plain"]["max_restarts"]) == (None, 3)
    wrong = cli("submit", "-d", "--max-duration", "soon", "--", "true")
    assert wrong.code != 0 and "max_duration" in wrong.err
    assert cli("submit", "-d", "--max-restarts", "-1", "--", "true").code == 2


def test_datasets_are_registered(cli: Cli, tmp_path: Path) -> None:
    said = cli("datasets", "add", "text", str(tmp_path), "--held-out", "2%", "--no-wait")
    assert said.code == 0 and said.out == "job/text created\n"
    (job,) = json.loads(cli("jobs", "-o", "json").out)
    assert job["spec"]["uri"] == tmp_path.as_uri()
    assert job["spec"]["held_out"] == 0.02
    assert cli("datasets").err == "no datasets\n"


def test_a_folder_is_added_as_a_model_once_and_again_when_it_changed(
    cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    missing = cli("models", "add", "small", str(folder), "--no-wait")
    assert missing.code == 2 and "has no tokenizer*" in missing.err
    (folder / "tokenizer.json").write_text("{}")
    assert cli("models", "add", "small", str(folder), "--no-wait").out == "job/small created\n"
    (job,) = json.loads(cli("jobs", "-o", "json").out)
    assert f"'{folder}'/." in job["spec"]["command"] and job["spec"]["outputs"] == {
        "model": "model"
    }
    assert cli("models", "add", "small", str(folder), "--no-wait").out == "job/small unchanged\n"
    (folder / "config.json").write_text("{ }")
    changed = cli("models", "add", "small", str(folder), "--no-wait")
    assert changed.code == 1 and "--replace" in changed.err  # the first one is still under way
    assert cli("models", "add", "elsewhere", "/not/here", "--no-wait").code == 0


def test_models_are_promoted_and_pulled(
    cli: Cli, tmp_path: Path, platform: Platform, running_job: Callable[..., Job]
) -> None:
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "config.json").write_text("{}")
    job = running_job()
    assert job.run_id is not None
    model = OutputAsset(kind="model", name="hello", digest="ab", uri=stored.as_uri(), size=2)
    platform.run_beat(job.run_id, "succeeded", outputs=[model])
    assert cli("models", "promote", "hello@1", "prod").out == "model/hello@prod is version 1\n"
    assert cli("models", "promote", "hello", "prod").code == 2
    assert cli("models", "-o", "name").out == "model/hello@1\n"
    assert cli("models", "list", "-o", "name").out == "model/hello@1\n"
    pulled = cli("models", "pull", "hello@prod", str(tmp_path / "here"))
    assert pulled.code == 0, pulled.err
    assert (tmp_path / "here" / "config.json").read_text() == "{}"
    assert cli("models", "pull", "hello@prod", str(tmp_path / "here")).code == 2


def test_keys_and_secrets(cli: Cli, platform: Platform) -> None:
    made = cli("keys", "create", "ada", "--access", "viewer", "--expires-in", "90d")
    key = made.out.strip()
    assert key.startswith("qd_") and key not in made.err
    assert key not in cli("keys").out
    assert cli("keys", "create", "ada", "--access", "root").code == 2
    (row,) = [row for row in cli("keys").rows if row[0] == "ada"]
    assert cli("keys", "revoke", row[-1]).code == 0
    assert cli("secrets", "set", "TOKEN", stdin="s3cret\n").out == "secret/TOKEN version 1\n"
    assert cli("secrets", "set", "TOKEN", stdin="").code == 2
    assert cli("secrets").rows[1][0] == "TOKEN"
    assert cli("secrets", "delete", "TOKEN").code == 0


def test_login_keeps_a_key_that_works(
    cli: Cli, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path / "other"))
    assert cli("login", platform.url, stdin="qd_wrong").code == 1
    assert not (tmp_path / "other").exists()
    said = cli("login", platform.url, stdin=platform.key + "\n")
    assert (said.code, said.out) == (0, "home · admin · project (all)\n")
    assert (tmp_path / "other" / "keys" / "admin").stat().st_mode & 0o777 == 0o600
    assert cli("jobs").code == 0
    assert cli("login", "example.com").code == 2


def test_doctor_finds_what_is_missing(cli: Cli, platform: Platform) -> None:
    said = cli("doctor")
    assert said.code == 1 and "no cluster has an agent" in said.out
    platform.agent_beat()
    said = cli("doctor", "-o", "json")
    checks = json.loads(said.out)
    assert said.code == 0 and {check["state"] for check in checks} == {"ok"}, said.out
    assert {"one-live-run", "epochs", "checkpoint-files"} <= {check["name"] for check in checks}
    assert cli("doctor", "--deep").rows[1][:2] == ["OK", "address"]


def test_services_are_listed_scaled_and_deleted(cli: Cli, client: Client) -> None:
    client.apply([{"kind": "service", "name": "chat", "model": "/models/chat"}])
    assert cli("services").rows[1][0] == "chat"
    assert cli("scale", "service/chat", "--replicas", "2").out == "service/chat 0/2 ready\n"
    assert cli("describe", "service/chat").out.startswith("service/chat")
    assert cli("delete", "job/chat").code == 2
    assert cli("delete", "service/chat").code == 0


def test_a_rollout_is_shown_compared_and_undone(cli: Cli, client: Client) -> None:
    service = {"kind": "service", "name": "chat", "model": "/models/chat"}
    client.apply([service])
    assert "unknown" in cli("rollout", "service/chat").err, "no controller has looked yet"
    client.apply([{**service, "engine_args": {"max_batch": 2}}])
    history = cli("rollout", "service/chat", "history").rows
    assert history[0] == ["REVISION", "AGE", "BY", "WHY", "CHANGED", "MODEL"]
    assert [row[0] for row in history[1:]] == ["2", "1"] and "engine_args" in history[1]
    diff = cli("rollout", "service/chat", "diff", "1", "2")
    assert "+  max_batch: 2" in diff.out and diff.code == 0
    assert cli("rollout", "service/chat", "diff", "1", "9").code == 1
    assert cli("rollout", "service/chat", "pause").code == 1
    assert cli("rollout", "service/chat", "--to", "1").code == 2
    undone = cli("rollout", "service/chat", "undo", "--to", "1")
    assert undone.code == 0 and "revision 3 (of 1)" in undone.err
    assert cli("rollout", "service/chat", "undo", "--to", "1").code == 1


def test_plan_shows_layouts_and_says_when_nothing_fits(cli: Cli, tmp_path: Path) -> None:
    text = """\
kind: pretrain
name: small
architecture: llama-3-8b
datasets: /data/text
tokenizer: /data/tokenizer
training: {steps: 10}
resources: {accelerator: H100}
"""
    fits = cli("plan", "-f", "-", stdin=text)
    assert fits.code == 0, fits.err
    assert "LAYOUT" in fits.out and "8.03B parameters" in fits.out
    too_large = cli("plan", "-f", "-", stdin=text.replace("8b", "70b") + "ranks: 1\n")
    assert too_large.code == 1
    assert "rejected: data 1 × tensor 1 × pipeline 1" in too_large.out
    assert cli("plan", "-f", "-", stdin=HELLO).code == 1


def test_trouble_is_said_without_a_traceback(
    cli: Cli, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUARTERDECK_KEY", "qd_wrong")
    wrong = cli("jobs")
    assert (wrong.code, wrong.out) == (1, "") and wrong.err.startswith("error: ")
    monkeypatch.delenv("QUARTERDECK_KEY")
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path / "empty"))
    nowhere = cli("jobs")
    assert nowhere.code == 2 and "run `quarterdeck up`" in nowhere.err
