"""Jobs that wait for each other's ends."""

from __future__ import annotations

from typing import Any

import pytest


def end(platform: Any, job_id: str, run: Any, phase: str, make: Any) -> None:
    failed = {"failure": make["failure"]("user_code")} if phase == "failed" else {}
    platform.agent.say(run, phase, **failed)
    platform.controller.tick()
    platform.controller.tick()
    assert platform.job(job_id).phase == phase


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_fan_out_by_outcome_and_fan_in(platform: Any, make: Any, outcome: str) -> None:
    command = make["command"]
    first, run = platform.started(command("first", max_restarts=0))
    on = {
        condition: platform.submit(
            command(f"on-{condition}", after=[{"job": "first", "on": condition}])
        )
        for condition in ("success", "failure", "any")
    }
    both = platform.submit(command("both", after=["job/on-any", {"job": "first", "on": "any"}]))
    late = platform.submit(command("late", after=["job/on-failure"]))
    platform.controller.tick()
    assert {platform.job(job).reason for job in (*on.values(), both, late)} == {"WaitingForJob"}
    end(platform, first, run, outcome, make)

    placed = {condition: platform.job(job).phase == "starting" for condition, job in on.items()}
    good = outcome == "succeeded"
    assert placed == {"success": good, "failure": not good, "any": True}
    unmet = platform.job(on["failure" if good else "success"])
    expected = ("cancelled", "NotNeeded") if good else ("failed", "DependencyFailed")
    assert (unmet.phase, unmet.reason) == expected
    assert "job/first" in unmet.message
    expected = ("cancelled", "NotNeeded") if good else ("waiting", "WaitingForJob")
    assert (platform.job(late).phase, platform.job(late).reason) == expected
    assert platform.job(both).phase == "waiting"
    end(platform, on["any"], platform.bring_up(on["any"]), "succeeded", make)
    assert platform.job(both).phase == "starting"


def test_a_cancelled_job_has_not_failed(platform: Any, make: Any) -> None:
    first = platform.submit(make["command"]("first", ranks=100))
    after = {
        on: platform.submit(make["command"](on, after=[{"job": "first", "on": on}]))
        for on in ("success", "failure", "any")
    }
    platform.controller.tick()
    platform.wish(first, "cancel")
    platform.controller.tick()
    platform.controller.tick()
    ends = {on: (platform.job(job).phase, platform.job(job).reason) for on, job in after.items()}
    assert ends == {
        "success": ("failed", "DependencyFailed"),
        "failure": ("cancelled", "NotNeeded"),
        "any": ("starting", "Placed"),
    }


def test_a_suspended_job_is_waited_for(platform: Any, make: Any) -> None:
    first = platform.submit(make["command"]("first", ranks=100))
    second = platform.submit(make["command"]("second", after=[{"job": "first", "on": "any"}]))
    platform.controller.tick()
    platform.wish(first, "suspend")
    platform.controller.tick()
    platform.controller.tick()
    assert platform.job(first).phase == "suspended"
    assert platform.job(second).phase == "waiting"
    assert "suspended" in platform.job(second).message


def test_outputs_of_one_command_are_inputs_of_another(platform: Any, make: Any) -> None:
    maker = platform.submit(make["command"]("maker", outputs={"model": "m", "dataset": "d"}))
    reader = platform.submit(
        make["command"](
            "reader",
            inputs={"model": "job/maker", "texts": {"reference": "maker", "kind": "dataset"}},
            outputs={"dataset": "out"},
        )
    )
    platform.controller.tick()
    assert platform.job(reader).reason == "WaitingForJob"
    outputs = [
        make["output"](kind=kind, name="maker", digest=kind, uri=f"file:///{kind}")
        for kind in ("model", "dataset")
    ]
    platform.agent.say(platform.bring_up(maker), "succeeded", outputs=outputs)
    platform.controller.tick()
    run = platform.bring_up(reader)
    read = {field: (one[0]["kind"], one[0]["digest"]) for field, one in run.inputs.items()}
    assert read == {"inputs.model": ("model", "model"), "inputs.texts": ("dataset", "dataset")}


def test_a_promised_output_that_never_came_fails_who_waits_for_it(platform: Any, make: Any) -> None:
    maker = platform.submit(make["command"]("maker", outputs={"model": "m"}))
    reader = platform.submit(make["command"]("reader", inputs={"base": "job/maker"}))
    platform.agent.say(platform.bring_up(maker), "succeeded")
    platform.controller.tick()
    platform.controller.tick()
    assert (platform.job(reader).phase, platform.job(reader).reason) == (
        "failed",
        "DependencyFailed",
    )
    assert "made no model or dataset or tokenizer" in platform.job(reader).message


def test_roles_start_together_and_hold_what_each_asks_for(platform: Any, make: Any) -> None:
    document = {
        "kind": "command",
        "name": "rl",
        "roles": {
            "trainer": {"ranks": 3, "command": "a"},
            "reward": {"ranks": 1, "command": "b", "resources": {"cpus": 3}},
        },
    }
    _, run = platform.started(document)
    places = [(place["rank"], place["role"]) for place in run.placements]
    assert places == [(0, "trainer"), (1, "trainer"), (2, "trainer"), (3, "reward")]
    beside = platform.submit(make["command"]("beside", ranks=4, resources={"cpus": 1}))
    platform.controller.tick()
    assert platform.job(beside).phase == "starting"
    again = platform.submit({**document, "name": "again"})
    platform.controller.tick()
    assert platform.job(again).reason == "InsufficientSlots"


def test_per_node_is_one_place_for_all_slots_of_a_machine(platform: Any, make: Any) -> None:
    _, run = platform.started(make["command"]("ddp", ranks=8, launch="per_node"))
    assert [(place["node_id"], place["slots"]) for place in run.placements] == [
        ("n1", 4),
        ("n2", 4),
    ]
    other = platform.submit(make["command"]("other"))
    platform.controller.tick()
    assert platform.job(other).phase == "queued", "all slots are held"
