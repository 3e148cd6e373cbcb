"""Which machines of pools are spot, as far as anybody knows, and who goes there."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.controller.capacity import Capacity
from quarterdeck.store.tables import NodeRow
from tests.integration.controller.conftest import command
from tests.integration.controller.test_capacity import POOL, Machines

SPOT = POOL.model_copy(update={"groups": [POOL.groups[0].model_copy(update={"spot": True})]})


@pytest.fixture
def spot(platform: Any) -> Any:
    """A platform whose cluster a is a pool of spot machines."""
    platform.agent.nodes = {}
    platform.agent.beat()
    platform.machines = Machines()
    platform.capacity = Capacity(platform.database, [(SPOT, platform.machines)], rest=0.0)
    platform.capacity.tick()
    return platform


def service(name: str, **resources: Any) -> dict[str, Any]:
    return {"kind": "service", "name": name, "model": "file:///m", "resources": resources}


def ticks(platform: Any, count: int = 2) -> None:
    for _ in range(count):
        platform.capacity.tick()
        platform.controller.tick()


def join(platform: Any) -> None:
    platform.agent.nodes = dict.fromkeys(platform.machines.pods, 4)
    platform.agent.beat()


def test_services_stay_away_unless_they_say_otherwise(spot: Any) -> None:
    careful = spot.deploy(service("careful"))
    job = spot.submit(command("train", ranks=4))
    ticks(spot)
    assert spot.machines.ordered == 1
    said = spot.service(careful).facts[0]
    assert "needs 1 slots that are not spot" in said
    join(spot)
    spot.controller.tick()
    # Until a look has found its pod nobody knows what the machine is: who takes either goes there.
    assert spot.job(job).phase == "starting"
    bold = spot.deploy(service("bold", spot="allow"))
    ticks(spot)
    join(spot)
    ticks(spot)
    assert spot.run_of(bold).cluster == "a"
    assert spot.runs(careful) == []
    assert "resources.spot: avoid" in spot.service(careful).facts[0]
    with spot.database.read() as session:
        assert {session.get_one(NodeRow, name).pool_group for name in spot.machines.pods} == {
            "h100"
        }


def test_who_wants_nothing_else_waits_until_it_is_known(spot: Any) -> None:
    job = spot.submit(command("train", ranks=4, resources={"spot": "only"}))
    ticks(spot)
    join(spot)
    spot.controller.tick()
    assert spot.job(job).phase == "queued"
    ticks(spot)
    assert spot.job(job).phase == "starting"


def test_machines_without_a_pool_say_it_by_a_label(platform: Any) -> None:
    job = platform.submit(command("train", ranks=4, resources={"spot": "only"}))
    platform.controller.tick()
    assert platform.job(job).reason == "SpotUnwanted"
    with platform.database.write() as session:
        session.get_one(NodeRow, "n1").labels = {"spot": "true"}
    platform.controller.tick()
    assert {place["node_id"] for place in platform.run_of(job).placements} == {"n1"}
