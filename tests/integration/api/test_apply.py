"""Apply: one transaction, idempotent, refused with paths and remedies."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import Base, JobEdgeRow, JobRow
from tests.integration.api.conftest import Platform, agent_beat, command, paths, problem

CHAIN: list[dict[str, Any]] = [
    {"kind": "evaluate", "name": "score", "model": "job/small", "datasets": "corpus#held_out"},
    {"kind": "dataset", "name": "corpus", "uri": "file:///corpus", "held_out": "2%"},
    {"kind": "tokenizer", "name": "bpe", "dataset": "corpus", "vocabulary": "8k"},
    {"kind": "data", "name": "tokens", "datasets": "corpus", "tokenizer": "job/bpe"},
    {
        "kind": "pretrain",
        "name": "small",
        "architecture": {
            "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
        },
        "tokenizer": "job/bpe",
        "datasets": "job/tokens",
        "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
        "training": {"steps": 240, "sequence_length": 128, "global_batch_size": 32},
    },
]  # fmt: skip


def end(database: Database, phase: str) -> None:
    """Let every job have ended so: what controllers do over time."""
    with database.write() as session:
        session.execute(update(JobRow).values(phase=phase, ended_at=func.now()))


def counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }


def apply(platform: Platform, *documents: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": list(documents), **wishes})


def actions(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["action"] for result in answer.json()["results"]]


def test_a_chain_is_created_in_file_order_with_edges_to_its_jobs(platform: Platform) -> None:
    answer = apply(platform, *CHAIN)
    assert actions(answer) == ["created"] * 5
    results = answer.json()["results"]
    assert [result["name"] for result in results] == [one["name"] for one in CHAIN]
    ids = {result["name"]: result["id"] for result in results}
    with platform.database.read() as session:
        edges = {(edge.job_id, edge.needs_id) for edge in session.scalars(select(JobEdgeRow))}
    assert edges == {
        (ids["score"], ids["small"]),
        (ids["score"], ids["corpus"]),
        (ids["bpe"], ids["corpus"]),
        (ids["tokens"], ids["corpus"]),
        (ids["tokens"], ids["bpe"]),
        (ids["small"], ids["bpe"]),
        (ids["small"], ids["tokens"]),
    }
    why = platform.admin.get("/jobs/small/why").json()
    assert any("job/tokens is waiting" in fact for fact in why["facts"])


def test_applying_again_changes_nothing(platform: Platform) -> None:
    apply(platform, *CHAIN)
    before = counts(platform.database)
    assert actions(apply(platform, *CHAIN)) == ["unchanged"] * 5
    assert counts(platform.database) == before


@pytest.mark.parametrize(
    ("phase", "same", "changed"),
    [
        ("succeeded", "unchanged", "created"),
        ("failed", "created", "created"),
        ("cancelled", "created", "created"),
    ],
)
def test_after_the_end(platform: Platform, phase: str, same: str, changed: str) -> None:
    apply(platform, command("a"))
    end(platform.database, phase)
    assert actions(apply(platform, command("a"), dry_run=True)) == [same]
    assert actions(apply(platform, command("a", ranks=2), dry_run=True)) == [changed]


def test_a_changed_live_job_is_refused_and_replace_is_offered(platform: Platform) -> None:
    first = apply(platform, command("a")).json()["results"][0]["id"]
    before = counts(platform.database)
    answer = apply(platform, command("b"), command("a", ranks=2))
    assert (answer.status_code, problem(answer)) == (409, "job_live")
    assert "--replace" in answer.json()["detail"]
    assert paths(answer) == ["documents[1].ranks"]
    assert counts(platform.database) == before
    replaced = apply(platform, command("a", ranks=2), replace=True).json()["results"][0]
    assert replaced["action"] == "created" and first in replaced["message"]
    assert platform.admin.get(f"/jobs/{first}").json()["desired"] == "cancel"
    assert platform.admin.get("/jobs/a").json()["id"] == replaced["id"]


def test_a_dry_run_writes_nothing(platform: Platform) -> None:
    before = counts(platform.database)
    answer = apply(platform, *CHAIN, {"kind": "service", "name": "s", "model": "job/small"},
                   dry_run=True)  # fmt: skip
    assert actions(answer) == ["created"] * 6
    assert [result.get("id") for result in answer.json()["results"]] == [None] * 6
    assert counts(platform.database) == before


def test_services_are_revised_and_pruned(platform: Platform) -> None:
    service = {"kind": "service", "name": "s", "model": "job/small"}
    apply(platform, *CHAIN, service, {**service, "name": "other"})
    assert actions(apply(platform, service)) == ["unchanged"]
    answer = apply(platform, {**service, "engine_args": {"max_batch": 4}}, prune=True)
    assert actions(answer) == ["updated", "deleted"]
    assert answer.json()["results"][0]["message"] == "revision 2"
    assert answer.json()["results"][1]["name"] == "other"
    assert platform.admin.get("/jobs/corpus").json()["desired"] == "run"
    revisions = platform.admin.get("/services/s/revisions").json()["items"]
    assert [revision["revision"] for revision in revisions] == [2, 1]


BATCH = {"steps": 9, "sequence_length": 128, "global_batch_size": 32}


@pytest.mark.parametrize(
    ("change", "path", "remedy"),
    [
        ({"trainin": 1}, "documents[1].trainin", "did you mean 'training'"),
        ({"training": {"token": "1B"}}, "documents[1].training.token", "did you mean 'tokens'"),
        ({"tokenizer": "job/bqe"}, "documents[1].tokenizer", "did you mean 'bpe'"),
        ({"datasets": "corpus"}, "documents[1].datasets[0]", "does not exist"),
        ({"datasets": "job/bpe"}, "documents[1].datasets[0]", "makes no dataset"),
        ({"after": ["bpe"]}, "documents[1].after[0]", "write job/NAME"),
        ({"secrets": ["TOKEN"]}, "documents[1].secrets[0].name", "secrets set TOKEN"),
        ({"project": "nowhere"}, "documents[1].project", "does not exist"),
        ({"kind": "pretran"}, "documents[1].kind", "did you mean 'pretrain'"),
        ({"resources": {"accelerator": "H1000"}}, "documents[1].resources.accelerator", "H100"),
        ({"parallelism": {"tensor": 4}}, "documents[1].parallelism.tensor", "does not divide"),
        ({"parallelism": {"pipeline": 8}}, "documents[1].parallelism.pipeline", "4 layers"),
        (
            {"training": {**BATCH, "batch_ramp": {"start": 31, "increment": 1, "samples": 100}}},
            "documents[1].training.batch_ramp", "multiples of 2",
        ),
        (
            {"training": {"steps": 9, "batch_ramp": {"start": 64, "increment": 1, "samples": 9}}},
            "documents[1].training.batch_ramp", "start smaller",
        ),
        (
            {"parallelism": {"data": 2}, "sync": {"every": 8}},
            "documents[1]", "set parallelism.zero: 0",
        ),
        ({"name": "bpe"}, "documents[1].name", "documents[0]"),
        ({"ranks": 4}, "documents[1]", "leave ranks out"),
    ],
)  # fmt: skip
def test_wrong_documents_name_the_path_and_the_remedy(
    platform: Platform, change: dict[str, Any], path: str, remedy: str
) -> None:
    platform.admin.post("/agents/a/beat", agent_beat())
    base = {**CHAIN[4], "datasets": "file:///tokens"}
    tokenizer = {**CHAIN[2], "dataset": "file:///text"}
    before = counts(platform.database)
    answer = apply(platform, tokenizer, {**base, **change})
    assert (answer.status_code, problem(answer)) == (422, "invalid_document"), answer.text
    assert path in paths(answer)
    assert remedy in str(answer.json()["errors"])
    assert counts(platform.database) == before


def test_a_training_that_cannot_fit_is_refused_unless_forced(platform: Platform) -> None:
    large = {
        **CHAIN[4], "architecture": "llama-3-70b", "datasets": "file:///tokens",
        "tokenizer": None, "resources": {"accelerator": "H100"},
    }  # fmt: skip
    del large["tokenizer"]
    answer = apply(platform, large)
    assert (answer.status_code, problem(answer)) == (422, "does_not_fit"), answer.text
    assert "GiB" in answer.json()["detail"] or "GB" in answer.json()["detail"]
    assert actions(apply(platform, large, force=True)) == ["created"]


def test_auto_becomes_a_layout_at_submission(platform: Platform) -> None:
    platform.admin.post("/agents/a/beat", agent_beat(slots=8))
    document = {**CHAIN[4], "datasets": "file:///tokens", "parallelism": "auto", "ranks": 4}
    del document["tokenizer"]
    assert actions(apply(platform, document)) == ["created"]
    with platform.database.read() as session:
        row = session.scalars(select(JobRow)).one()
    assert row.layout is not None and row.ranks == 4
    assert row.layout["data"] * row.layout["tensor"] * row.layout["pipeline"] == 4


def test_an_elastic_training_knows_its_smaller_layouts(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat())
    training = {**CHAIN[4], "datasets": "file:///tokens"}
    del training["tokenizer"]
    answer = apply(platform, {**training, "elastic": {"min_ranks": 4}})
    assert actions(answer) == ["created"]
    with platform.database.read() as session:
        layouts = session.scalars(select(JobRow)).one().smaller_layouts or []
    degrees = [(one["data"], one["tensor"], one["pipeline"]) for one in layouts]
    assert degrees == [(1, 2, 2), (2, 2, 1), (2, 1, 2)]

    too_many = apply(platform, {**training, "name": "b", "elastic": {"min_ranks": 9}})
    assert too_many.status_code == 422 and "more than the gang's 8 ranks" in too_many.text
    # A batch of three divides among three alone: between 2 and 2 ranks there is no layout.
    odd = {**training["training"], "global_batch_size": 3}
    none = apply(
        platform,
        {**training, "name": "c", "parallelism": {"data": 3}, "training": odd,
         "elastic": {"min_ranks": 2}},
    )  # fmt: skip
    assert none.status_code == 422
    assert paths(none) == ["documents[0].elastic.min_ranks"] and "lower min_ranks" in none.text


def test_a_gang_beyond_every_cluster_waits_and_says_so(platform: Platform) -> None:
    platform.admin.post("/agents/a/beat", agent_beat(slots=2))
    message = apply(platform, command("big", ranks=64)).json()["results"][0]["message"]
    assert "needs 64 slots, the largest cluster has 2" in message


def test_a_long_chain_of_jobs_is_put_in_order(platform: Platform) -> None:
    last = 999
    chain = [command(f"j{place}", after=[f"job/j{place + 1}"]) for place in range(last)]
    answer = platform.admin.post(
        "/apply", {"documents": [*chain, command(f"j{last}")], "dry_run": True}
    )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [item["name"] for item in results] == [f"j{place}" for place in range(last + 1)]
    chain.append(command(f"j{last}", after=["job/j500"]))
    answer = platform.admin.post("/apply", {"documents": chain, "dry_run": True})
    assert problem(answer) == "invalid_document"
    assert "job/j500 → job/j501 → " in answer.json()["detail"]


def test_jobs_that_wait_for_each_other_are_refused(platform: Platform) -> None:
    answer = apply(platform, command("a", after=["job/b"]), command("b", after=["job/a"]))
    assert problem(answer) == "invalid_document"
    assert "wait for each other" in answer.json()["detail"]


def test_a_misspelt_wish_is_refused(platform: Platform) -> None:
    answer = platform.admin.post("/apply", {"documents": [command("a")], "dryrun": True})
    assert problem(answer) == "invalid_document" and paths(answer) == ["dryrun"]
