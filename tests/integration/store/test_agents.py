"""What agents report and are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.specs.protocol import AgentBeat, Claim, NodeReport, RunSighting
from quarterdeck.store.agents import claim, record_agent_beat, work_for
from quarterdeck.store.errors import AgentSuperseded, AlreadyClaimed, NotFound, StaleEpoch
from quarterdeck.store.fleet_queries import cordon_node
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.sessions import Database
from quarterdeck.store.settings import raise_generation
from quarterdeck.store.tables import ClusterRow, JobRow, KeyRow, NodeRow, RunRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def beat(agent: str = "one", started: datetime = NOW, **fields: Any) -> AgentBeat:
    return AgentBeat(agent_id=agent, started_at=started, **fields)


def report(node_id: str, alive: bool = True) -> NodeReport:
    return NodeReport(node_id=node_id, host="h", address="127.0.0.2", slots=4, alive=alive)


def send(database: Database, message: AgentBeat, token: bytes | None = None) -> None:
    with database.write() as session:
        record_agent_beat(session, "a", message, encrypted_token=token)


def node_phases(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.id: row.phase for row in session.scalars(select(NodeRow))}


def add_run(database: Database, *, epoch: int = 1, job_epoch: int = 1) -> str:
    with database.write() as session:
        job = JobRow(
            id=new_id("job"), name="j", project="default", kind="command", spec={},
            ordinal=next_ordinal(), phase="starting", epoch=job_epoch,
        )  # fmt: skip
        session.add(job)
        session.flush()
        run = RunRow(
            id=new_id("run"), owner_type="job", owner_id=job.id, owner_name="j",
            project="default", kind="command", epoch=epoch, cluster="a", spec={}, placements=[],
        )  # fmt: skip
        session.add(run)
    return run.id


def take(
    database: Database, run_id: str, epoch: int = 1, cluster: str | None = None, agent: str = "one"
) -> RunRow:
    with database.write() as session:
        return claim(
            session, run_id, Claim(epoch=epoch, agent_id=agent), cluster=cluster,
            key_sha256=new_id("digest"), key_prefix="qdr_x",
        )  # fmt: skip


def test_the_first_beat_makes_the_cluster_and_nodes_come_and_go(database: Database) -> None:
    send(database, beat(nodes=[report("n1"), report("n2")]), b"sealed")
    assert node_phases(database) == {"n1": "alive", "n2": "alive"}
    send(database, beat(nodes=[report("n1", alive=False), report("n3")]))
    assert node_phases(database) == {"n1": "dead", "n2": "dead", "n3": "alive"}
    with database.read() as session:
        cluster = session.scalars(select(ClusterRow)).one()
    assert cluster.ray_token == b"sealed", "a beat without a token keeps the old one"


def test_a_newer_agent_takes_over_and_the_older_is_told(database: Database) -> None:
    send(database, beat("old"))
    send(database, beat("new", NOW + timedelta(minutes=1)))
    with pytest.raises(AgentSuperseded):
        send(database, beat("old"))
    with database.read() as session:
        assert session.scalars(select(ClusterRow.agent_id)).one() == "new"


@pytest.mark.parametrize("skew", [-30, 0, 30])
def test_clocks_that_differ_do_not_choose_the_agent(database: Database, skew: int) -> None:
    send(database, beat("first"))
    send(database, beat("second", NOW + timedelta(seconds=skew)))
    for clock in (-30, 0, 30):
        with pytest.raises(AgentSuperseded):
            send(database, beat("first", NOW + timedelta(seconds=clock)))
    send(database, beat("second", NOW + timedelta(seconds=skew)))
    with pytest.raises(AgentSuperseded):
        send(database, beat("long-ago", NOW - timedelta(hours=1)))
    for index in range(30):
        send(database, beat(f"agent-{index}", NOW))
    with database.read() as session:
        row = session.scalars(select(ClusterRow)).one()
    assert row.agent_id == "agent-29" and len(row.retired_agents or []) == 20


def test_hearing_starts_anew_after_a_gap(database: Database) -> None:
    send(database, beat())
    with database.write() as session:
        row = session.scalars(select(ClusterRow)).one()
        assert row.heard_since is not None
        row.heard_since -= timedelta(hours=1)
        since = row.heard_since
    send(database, beat())
    with database.read() as session:
        assert session.scalars(select(ClusterRow.heard_since)).one() == since
    with database.write() as session:
        session.scalars(select(ClusterRow)).one().last_beat_at = since
    send(database, beat())
    with database.read() as session:
        heard = session.scalars(select(ClusterRow.heard_since)).one()
    assert heard is not None and heard > since + timedelta(minutes=50)


def test_death_is_final_and_epochs_are_not_mixed_up(database: Database) -> None:
    send(database, beat())
    run_id = add_run(database)
    take(database, run_id)

    def saw(state: Any, epoch: int = 1) -> str | None:
        send(database, beat(runs=[RunSighting(run_id=run_id, epoch=epoch, state=state)]))
        with database.read() as session:
            return session.get_one(RunRow, run_id).sighted

    assert saw("dead", epoch=2) is None
    assert saw("unknown") == "unknown"
    assert saw("alive") == "alive"
    assert saw("dead") == "dead"
    assert saw("alive") == "dead"


def test_work_lists_what_to_start_watch_and_kill(database: Database) -> None:
    fresh, claimed, doomed, ended = (add_run(database) for _ in range(4))
    for run_id in (claimed, doomed, ended):
        take(database, run_id)
    with database.write() as session:
        session.get_one(RunRow, doomed).kill_requested = True
        session.get_one(RunRow, ended).phase = "succeeded"
    with database.read() as session:
        work = work_for(session, "a")
        elsewhere = work_for(session, "b")
    assert work.generation == 0
    assert [item.run_id for item in work.start] == [fresh]
    assert {item.run_id for item in work.watch} == {claimed, doomed}
    assert [item.run_id for item in work.kill] == [doomed]
    assert not (elsewhere.start or elsewhere.watch or elsewhere.kill)


def test_what_a_restored_backup_offers_is_neither_given_out_nor_claimed(database: Database) -> None:
    fresh = add_run(database)
    with database.write() as session:
        raise_generation(session)
    with database.read() as session:
        work = work_for(session, "a")
    assert (work.generation, work.start) == (1, [])
    with pytest.raises(AlreadyClaimed, match="restored backup"):
        take(database, fresh)


def test_only_the_agent_that_serves_the_cluster_claims(database: Database) -> None:
    send(database, beat("old"))
    send(database, beat("new", NOW + timedelta(minutes=1)))
    run_id = add_run(database)
    for agent in ("old", "stranger"):
        with pytest.raises(AgentSuperseded):
            take(database, run_id, agent=agent)
    with database.read() as session:
        assert session.get_one(RunRow, run_id).claimed_by is None
        assert session.scalars(select(KeyRow)).all() == []
    assert take(database, run_id, agent="new").claimed_by == "new"


def test_a_claim_is_refused_in_its_own_words(database: Database) -> None:
    run_id = add_run(database)
    with pytest.raises(NotFound):
        take(database, "run-unknown")
    with pytest.raises(NotFound):
        take(database, run_id, cluster="b")
    with pytest.raises(StaleEpoch):
        take(database, run_id, epoch=2)
    take(database, run_id, cluster="a")
    with pytest.raises(AlreadyClaimed, match="claimed by one"):
        take(database, run_id)
    superseded = add_run(database, epoch=1, job_epoch=2)
    with pytest.raises(StaleEpoch, match="epoch 2"):
        take(database, superseded)
    with database.read() as session:
        assert session.get_one(RunRow, superseded).claimed_by is None
        keys = session.scalars(select(KeyRow)).all()
    assert [(key.run_id, key.epoch, key.access) for key in keys] == [(run_id, 1, "run")]


def cordoned(database: Database) -> dict[str, bool]:
    with database.read() as session:
        return {row.id: row.cordoned for row in session.scalars(select(NodeRow))}


def close(database: Database, node_id: str, value: bool = True) -> None:
    with database.write() as session:
        cordon_node(session, session.get_one(NodeRow, node_id), value, actor="me")


def test_a_cordon_outlives_the_raylet(database: Database) -> None:
    def at(node_id: str, address: str, host: str = "h") -> NodeReport:
        return NodeReport(node_id=node_id, host=host, address=address, slots=4)

    two = at("n2", "127.0.0.3")
    send(database, beat(nodes=[at("n1", "127.0.0.2"), two]))
    close(database, "n1")
    send(database, beat(nodes=[at("n1-again", "127.0.0.2"), two]))
    assert cordoned(database) == {"n1": True, "n1-again": True, "n2": False}
    close(database, "n1", value=False)  # an old row is another way to name the machine
    send(database, beat(nodes=[at("n1-third", "127.0.0.2"), two]))
    assert cordoned(database)["n1-again"] is cordoned(database)["n1-third"] is False
    # A neighbour that joins on the same host is another machine.
    close(database, "n2")
    send(database, beat(nodes=[at("n1-third", "127.0.0.2"), two, at("n3", "127.0.0.4")]))
    assert cordoned(database)["n3"] is False
    # A host that is alone and comes back with another address is the same machine.
    send(database, beat(nodes=[at("x1", "10.0.0.1", "x")]))
    close(database, "x1")
    send(database, beat(nodes=[]))
    send(database, beat(nodes=[at("x2", "10.0.0.9", "x"), at("y", "10.0.0.1", "y")]))
    assert cordoned(database)["x2"] is True and cordoned(database)["y"] is False
