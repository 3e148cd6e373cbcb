"""What is said of jobs that wait for each other when they are submitted."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from quarterdeck.store.tables import JobEdgeRow, JobRow
from tests.integration.api.conftest import Platform, command, paths, problem


def apply(platform: Platform, *documents: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": list(documents), **wishes})


def test_conditions_are_kept_and_a_string_means_success(platform: Platform) -> None:
    waits = command("c", after=["job/a", {"job": "b", "on": "failure"}])
    answer = apply(platform, command("a"), command("b"), waits)
    assert answer.status_code == 200, answer.text
    with platform.database.read() as session:
        edges = {(edge.needs_name, edge.condition) for edge in session.scalars(select(JobEdgeRow))}
    assert edges == {("a", "success"), ("b", "failure")}
    facts = platform.admin.get("/jobs/c/why").json()["facts"]
    assert any("job/b" in fact and "waits for its failure" in fact for fact in facts)
    assert apply(platform, command("d", after="job/a")).status_code == 200
    assert apply(platform, waits).json()["results"][0]["action"] == "unchanged"


def test_a_circle_is_named_whatever_the_conditions(platform: Platform) -> None:
    answer = apply(
        platform,
        command("a", after=[{"job": "c", "on": "any"}]),
        command("b", after=["job/a"]),
        command("c", after=[{"job": "b", "on": "failure"}]),
    )
    assert problem(answer) == "invalid_document"
    detail = answer.json()["detail"]
    assert all(f"job/{name}" in detail for name in "abc") and "wait for each other" in detail
    with platform.database.read() as session:
        assert session.scalar(select(func.count()).select_from(JobRow)) == 0
    alone = apply(platform, command("a", after=[{"job": "a", "on": "any"}]))
    assert "job/a → job/a" in alone.json()["detail"]


@pytest.mark.parametrize(
    ("after", "path", "words"),
    [
        (["a"], "documents[0].after[0]", "write job/NAME"),
        ([{"job": "a", "on": "done"}], "documents[0].after[0].on", "success"),
        (["job/a", {"job": "a", "on": "any"}], "documents[0].after", "named twice"),
        (["job/nobody"], "documents[0].after[0]", "does not exist"),
    ],
)
def test_bad_entries_are_refused_with_their_path(
    platform: Platform, after: list[Any], path: str, words: str
) -> None:
    answer = apply(platform, command("x", after=after))
    assert (problem(answer), paths(answer)) == ("invalid_document", [path])
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("phase", "refused"),
    [
        ("succeeded", {"failure"}),
        ("failed", {"success"}),
        ("cancelled", {"success", "failure"}),
        ("suspended", set()),
    ],
)
def test_an_end_that_cannot_come_any_more_is_refused(
    platform: Platform, phase: str, refused: set[str]
) -> None:
    apply(platform, command("a"))
    with platform.database.write() as session:
        session.execute(update(JobRow).values(phase=phase))
    answers = {
        on: apply(platform, command("b", after=[{"job": "a", "on": on}]), dry_run=True).status_code
        for on in ("success", "failure", "any")
    }
    assert {on for on, status in answers.items() if status == 422} == refused


def test_a_command_reads_what_a_command_makes_and_waits_for_it(platform: Platform) -> None:
    maker = command("maker", outputs={"model": "out/m", "dataset": "out/d"})
    reads = {"model": "job/maker", "texts": {"reference": "job/maker", "kind": "dataset"}}
    scored = {"kind": "evaluate", "name": "e", "model": "job/maker", "datasets": "job/maker"}
    answer = apply(platform, command("reader", inputs=reads), scored, maker)
    assert answer.status_code == 200, answer.text
    with platform.database.read() as session:
        edges = {edge.job_id for edge in session.scalars(select(JobEdgeRow))}
    assert edges == {result["id"] for result in answer.json()["results"][:2]}


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"inputs": {"x": "job/maker"}}, "inputs.x", "{reference: job/maker, kind: model}"),
        ({"inputs": {"x": "job/plain"}}, "inputs.x", "outputs.model"),
        ({"inputs": {"tokenizer": "job/maker"}}, "inputs.tokenizer", "no tokenizer"),
        ({"inputs": {"x": "nothing"}}, "inputs.x", "model or dataset or tokenizer 'nothing'"),
        ({"inputs": {"x": {"referense": "a"}}}, "inputs.x.referense", "did you mean 'reference'"),
        ({"inputs": {"X-Y": "maker"}}, "inputs.X-Y", "pattern"),
        ({"outputs": {"model": "/etc"}}, "outputs.model", "below the working directory"),
        ({"outputs": {"model": "a/../../b"}}, "outputs.model", "below the working directory"),
        (
            {"inputs": {"model": "job/maker"}, "after": [{"job": "maker", "on": "failure"}]},
            "after[0]",
            "cannot wait for its failure",
        ),
    ],
)
def test_wrong_inputs_and_outputs_are_refused(
    platform: Platform, fields: dict[str, Any], path: str, words: str
) -> None:
    made = command("maker", outputs={"model": "out/m", "dataset": "out/d"})
    answer = apply(platform, made, command("plain"), command("x", **fields))
    assert answer.status_code == 422, answer.text
    found = {error["path"]: error["message"] for error in answer.json()["errors"]}
    assert words in found.get(f"documents[2].{path}", ""), found
