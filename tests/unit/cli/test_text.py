"""What the CLI prints, as pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from quarterdeck.cli.app import make_app
from quarterdeck.cli.follow import event_line, progress
from quarterdeck.cli.jobs import job_name
from quarterdeck.cli.output import Column, age, amount, duration, size, step, table, yaml_text
from quarterdeck.processes.commands import mount
from quarterdeck.specs.resources import Event, Job, Project

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _job(**fields: object) -> Job:
    return Job.model_validate(
        {
            "id": "job-1", "name": "a", "project": "default", "kind": "pretrain",
            "phase": "running", "reason": "Running", "message": "", "queue": "default",
            "priority": 0, "spec": {}, "created_at": NOW, **fields,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (864_000, "10d")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_ages_count_from_now() -> None:
    assert age(NOW - timedelta(minutes=5), NOW) == "5m"
    assert age(None) == "-"


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (812.4, "812"), (41_000, "41k"), (1_234_567, "1.23M"), (1.4e12, "1.4T")],
)
def test_amounts(number: float | None, text: str) -> None:
    assert amount(number) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**40, "3.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_steps() -> None:
    assert [step(None, 5), step(3, None), step(3, 5)] == ["-", "3", "3/5"]


def test_a_line_of_progress() -> None:
    job = _job(
        progress={
            "step": 812, "steps_total": 2000, "loss": 2.31, "tokens_per_second": 41_000,
            "eta_seconds": 1080, "goodput": 0.96,
        }
    )  # fmt: skip
    assert progress(job) == (
        "running · step 812/2000 · loss 2.310 · 41k tok/s · ETA 18m · goodput 96%"
    )
    waiting = _job(phase="queued", reason="InsufficientSlots", message="needs 8, 6 free")
    assert progress(waiting) == "queued · InsufficientSlots: needs 8, 6 free"
    assert progress(_job(phase="succeeded", reason="Succeeded")) == "succeeded · Succeeded"


def test_tables_align_and_hide_wide_columns() -> None:
    columns: list[Column[Project]] = [
        Column("NAME", lambda project: project.name),
        Column("NOTE", lambda project: "two\nlines" if project.name == "a" else None),
        Column("MORE", lambda project: "x", wide=True),
    ]
    projects = [Project(name="a", created_at=NOW), Project(name="longer", created_at=NOW)]
    assert table(projects, columns) == "NAME    NOTE\na       two lines\nlonger  -"
    assert table(projects, columns, wide=True).splitlines()[0] == "NAME    NOTE       MORE"


def test_yaml_reads_back() -> None:
    data = {"b": [1, 2.5, None, "3e-4", "on"], "a": {"x": True, "y": ""}}
    text = yaml_text(data)
    assert YAML(typ="safe", pure=True).load(text) == data
    assert text.index("b:") < text.index("a:")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "train.py", "--x"], "train-1f"),
        (["torch/My Script.sh"], "script-1f"),
        (["echo hi; sleep 1"], "echo-1f"),
        (["./___"], "job-1f"),
        (["x" * 90], "x" * 50 + "-1f"),
    ],
)
def test_submitted_programs_get_a_name(command: list[str], name: str) -> None:
    assert job_name(command, "1f") == name


def test_events_are_one_line() -> None:
    event = Event(
        id=7, type="job.phase", subject="job/a", subject_id="job-1", project="default",
        message="queued → running", actor="controller", at=NOW,
    )  # fmt: skip
    assert event_line(event).endswith("  job/a  job.phase  queued → running")
    assert event_line(event, "wide").endswith(" (by controller)")
    assert Event.model_validate_json(event_line(event, "json")) == event


def test_every_command_explains_itself_with_an_example() -> None:
    def visit(command: object, path: str) -> None:
        children = getattr(command, "commands", {})
        text = getattr(command, "help", None) or ""
        assert text, path
        if not children:
            assert "Example: " in text, f"{path} has no example"
            assert text.split("Example: ")[1].find("quarterdeck") >= 0, path
        for name, child in children.items():
            visit(child, f"{path} {name}")

    app = make_app()
    mount(app)
    visit(get_command(app), "quarterdeck")
