"""Chains: no replicas of their own, and a phase that follows those of their steps."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.store.tables import RunRow, ServiceRow

READY = {"url": "http://127.0.0.2:9000", "probed": True}


def service(name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "service", "name": name, "model": "file:///m", **fields}


@pytest.fixture
def steps(platform: Any) -> list[str]:
    return [str(platform.deploy(service(name))) for name in ("guard", "chat")]


@pytest.fixture
def chain(platform: Any, steps: list[str]) -> str:
    document = {"kind": "service", "name": "support", "chain": [{"guard": "guard"},
                                                               {"model": "chat"}]}  # fmt: skip
    identity = str(platform.deploy(document))
    with platform.database.write() as session:  # as submission does
        session.execute(
            update(ServiceRow).where(ServiceRow.id == identity).values(desired_replicas=0)
        )
    return identity


def bring_up(platform: Any) -> None:
    for _ in range(2):
        platform.controller.tick()
    for run in platform.agent.claim_all():
        platform.agent.say(run, "ready", endpoint=READY)
    for _ in range(2):
        platform.controller.tick()


def words(platform: Any, chain: str) -> tuple[str, str, str]:
    row = platform.service(chain)
    return row.phase, row.reason, row.message


def test_it_is_ready_with_its_steps_and_never_gets_a_replica(
    platform: Any, chain: str, steps: list[str]
) -> None:
    platform.controller.tick()
    phase, reason, message = words(platform, chain)
    assert (phase, reason) == ("deploying", "StepUnready")
    assert message.startswith("step 1 (guard): service/guard is deploying")
    bring_up(platform)
    assert words(platform, chain) == ("ready", "Ready", "2 steps ready")
    assert platform.runs(chain) == []
    assert all(len(platform.runs(step)) == 1 for step in steps)
    types = platform.event_types(chain)
    platform.controller.tick()
    assert platform.event_types(chain) == types, "nothing happens while nothing changes"


def test_a_step_that_fails_degrades_it_until_it_is_back(
    platform: Any, chain: str, steps: list[str]
) -> None:
    bring_up(platform)
    (run,) = platform.runs(steps[1])
    platform.agent.saw(run, "dead")
    for _ in range(2):
        platform.controller.tick()
    phase, reason, message = words(platform, chain)
    assert (phase, reason) == ("degraded", "StepUnready")
    assert message.startswith("step 2 (model): service/chat is degraded")
    platform.age(RunRow, run.id, "ended_at", 10)
    bring_up(platform)
    assert words(platform, chain) == ("ready", "Ready", "2 steps ready")


def test_a_step_that_is_removed_is_named(platform: Any, chain: str, steps: list[str]) -> None:
    bring_up(platform)
    with platform.database.write() as session:
        session.execute(update(ServiceRow).where(ServiceRow.id == steps[0]).values(desired="stop"))
    platform.controller.tick()
    assert words(platform, chain) == (
        "degraded", "StepMissing", "step 1 (guard): service/guard does not exist",
    )  # fmt: skip


def test_another_chain_is_a_revision_and_its_end_leaves_the_steps(
    platform: Any, chain: str, steps: list[str]
) -> None:
    bring_up(platform)
    with platform.database.write() as session:
        row = session.get_one(ServiceRow, chain)
        row.spec = {**row.spec, "chain": row.spec["chain"][1:]}
    platform.controller.tick()
    assert words(platform, chain)[2] == "1 steps ready"
    with platform.database.write() as session:
        session.execute(update(ServiceRow).where(ServiceRow.id == chain).values(desired="stop"))
    platform.controller.tick()
    assert platform.service(chain).phase == "stopped"
    assert [platform.service(step).phase for step in steps] == ["ready", "ready"]
