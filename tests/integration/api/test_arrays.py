"""Arrays through the api: one document, many jobs, one name for all."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from quarterdeck.store.tables import EventRow, JobEdgeRow, JobRow
from tests.integration.api.conftest import Platform, command, paths, problem


def apply(platform: Platform, *documents: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": list(documents), **wishes})


def test_one_document_becomes_its_members_in_one_transaction(platform: Platform) -> None:
    sweep = command("sweep", array={"lr": [1e-3, 3e-4], "seed": [1, 2]}, array_parallelism=2)
    answer = apply(platform, sweep, command("best", after="job/sweep"))
    assert answer.status_code == 200, answer.text
    assert "4 jobs, sweep-0 to sweep-3" in answer.json()["results"][0]["message"]
    array = platform.admin.get("/jobs/sweep").json()
    assert (array["array_size"], array["members"]) == (4, {"waiting": 4})
    listed = platform.admin.get("/jobs").json()["items"]
    assert [job["name"] for job in listed] == ["best", "sweep"]
    members = platform.admin.get("/jobs?array=sweep").json()["items"]
    assert [job["name"] for job in members] == [f"sweep-{index}" for index in (3, 2, 1, 0)]
    assert {job["array_id"] for job in members} == {array["id"]}
    assert members[0]["spec"]["env"]["ARRAY_LR"] == "0.0003"
    assert platform.admin.get("/jobs?name=sweep-1").json()["items"][0]["array_index"] == 1
    with platform.database.read() as session:
        edges = [edge.needs_id for edge in session.scalars(select(JobEdgeRow))]
        told = session.scalar(
            select(func.count()).select_from(EventRow).where(EventRow.type == "job.submitted")
        )
    assert (edges, told) == ([array["id"]], 6)
    assert apply(platform, sweep).json()["results"][0]["action"] == "unchanged"


def test_cancel_acts_on_all_of_it(platform: Platform) -> None:
    apply(platform, command("sweep", array=3))
    assert platform.admin.post("/jobs/sweep-1/cancel").json()["desired"] == "cancel"
    assert platform.admin.post("/jobs/sweep/suspend").status_code == 200
    wanted = [job["desired"] for job in platform.admin.get("/jobs?array=sweep").json()["items"]]
    assert wanted == ["suspend", "cancel", "suspend"]
    assert platform.admin.post("/jobs/sweep/cancel").json()["desired"] == "cancel"
    members = platform.admin.get("/jobs?array=sweep").json()["items"]
    assert {job["desired"] for job in members} == {"cancel"}


def test_a_million_is_refused_with_the_bound_and_the_count(platform: Platform) -> None:
    for array in (10**6, {"a": list(range(1000)), "b": list(range(1000))}):
        answer = apply(platform, command("sweep", array=array))
        assert (problem(answer), paths(answer)) == ("invalid_document", ["documents[0].array"])
        assert "1,000,000 jobs, not 1 to 1,000" in answer.json()["detail"]
    with platform.database.read() as session:
        assert session.scalar(select(func.count()).select_from(JobRow)) == 0


def test_a_wrong_member_is_named_with_its_values(platform: Platform) -> None:
    answer = apply(platform, command("sweep", array={"ranks": [1, 0]}))
    assert (problem(answer), paths(answer)) == ("invalid_document", ["documents[0].array"])
    detail = answer.json()["detail"]
    assert 'member 1 ({"ranks": 0})' in detail and "ranks: 0: input should be greater" in detail
    long = apply(platform, command("a" * 62, array=2))
    assert "name" in long.json()["detail"]


def test_members_read_what_others_make(platform: Platform) -> None:
    makers = command("make", array=2, outputs={"model": "out"})
    readers = command("read", array={"inputs.model": ["job/make-0", "job/make-1"]})
    readers["inputs"] = {"model": "job/make-0"}
    answer = apply(platform, readers, makers)
    assert answer.status_code == 200, answer.text
    with platform.database.read() as session:
        names = {edge.needs_name for edge in session.scalars(select(JobEdgeRow))}
    assert names == {"make-0", "make-1"}
    whole = apply(platform, command("x", inputs={"model": "job/make"}))
    assert "job/make is an array: name one of its members" in whole.json()["detail"]


def test_retrying_an_array_makes_all_of_it_again(platform: Platform) -> None:
    apply(platform, command("sweep", array=3))
    with platform.database.write() as session:
        for row in session.scalars(select(JobRow)):
            row.phase = "cancelled"
    again = platform.admin.post("/jobs/sweep/retry").json()
    assert again["members"] == {"waiting": 3}


def test_the_layout_of_a_training_is_planned_once_for_all_learning_rates(
    platform: Platform,
) -> None:
    training = {"steps": 10, "sequence_length": 64, "global_batch_size": 8}
    document = {
        "kind": "pretrain", "name": "small", "datasets": "file:///data",
        "architecture": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 64,
        },
        "parallelism": {"data": 2}, "training": training,
        "array": {"training.learning_rate": ["1e-3", 3e-4], "training.seed": [1, 2, 3]},
    }  # fmt: skip
    answer = apply(platform, document)
    assert answer.status_code == 200, answer.text
    members = platform.admin.get("/jobs?array=small").json()["items"]
    rates = [job["spec"]["training"]["learning_rate"] for job in members]
    assert sorted(rates) == [3e-4] * 3 + [1e-3] * 3
    assert {job["ranks"] for job in members} == {2}
    answer = apply(platform, {**document, "name": "b", "array": {"lr": [1]}})
    assert "lr is not a field of a pretrain job" in answer.json()["detail"]
