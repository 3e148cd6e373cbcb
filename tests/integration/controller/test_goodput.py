"""Rank-seconds of attempts, from beats to what an incident cost."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.beats import RankSeconds
from quarterdeck.store.goodput import (
    ACCOUNTS,
    accounts_by_cluster,
    accounts_by_job,
    books_of,
    job_books,
)
from quarterdeck.store.tables import RunRow


def seconds(run: RunRow) -> dict[str, float]:
    """The accounts that are not empty, after checking that they add up to what was held."""
    accounts = {name: getattr(run, f"{name}_seconds") for name in ACCOUNTS}
    assert sum(accounts.values()) == pytest.approx(run.held_seconds)
    return {name: pytest.approx(value, abs=0.5) for name, value in accounts.items() if value > 0.5}


def test_what_an_attempt_had_not_saved_is_lost_with_it(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j", ranks=4))
    accounts = RankSeconds(productive=300, checkpoint=20, starting=80)
    platform.agent.say(run, "running", step=9, accounts=accounts, unsaved_seconds=120.0)
    assert seconds(platform.run_of(job_id)) == {
        "productive": 300, "checkpoint": 20, "starting": 80
    }  # fmt: skip
    platform.age(RunRow, run.id, "last_beat_at", 30)
    platform.agent.saw(run, "dead")
    platform.controller.runs.tick()
    lost = platform.run_of(job_id)
    # 30 s × 4 ranks passed between its last word and its end.
    assert 240 <= lost.lost_seconds < 400
    assert lost.kept_seconds == lost.productive_seconds == pytest.approx(180)
    assert lost.held_seconds == pytest.approx(400 + lost.lost_seconds - 120)
    told = next(event for event in platform.events(job_id) if event.type == "run.goodput")
    assert told.data["lost"] == lost.lost_seconds and told.data["held"] == lost.held_seconds


def test_an_end_that_was_told_is_settled_once(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j", ranks=2, max_restarts=1))
    platform.agent.say(
        run, "failed", failure=make["failure"]("user_code"), lost_seconds=30.0,
        accounts=RankSeconds(productive=50, restart=30, starting=20),
    )  # fmt: skip
    platform.controller.runs.tick()
    before = seconds(platform.run_of(job_id))
    platform.agent.say(run, "failed", accounts=RankSeconds(productive=999))
    assert seconds(platform.run_of(job_id)) == before
    second = platform.bring_up(job_id)
    platform.agent.say(second, "running", step=1, accounts=RankSeconds(restart=14, productive=6))
    with platform.database.read() as session:
        runs, found = job_books(session, platform.job(job_id))
        assert [(cost.epoch, cost.what, cost.lost, cost.restart) for cost in found] == [
            (1, "failed (user_code)", 30.0, 14.0)
        ]
        assert found[0].waiting >= 0
        assert sum(books_of(each).accounts.held for each in runs) == pytest.approx(120)
        assert accounts_by_cluster(session)["a"].held == pytest.approx(120)
        (only,) = accounts_by_job(session, project="default", since=None)
        assert (only.job_id, only.attempts) == (job_id, 2)
        assert only.accounts.held == pytest.approx(120)


def test_a_success_keeps_all_and_an_old_supervisor_is_understood(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j"))
    platform.agent.say(run, "running", productive_seconds=70, held_seconds=100)
    platform.agent.say(run, "succeeded", productive_seconds=80, held_seconds=110)
    platform.controller.runs.tick()
    run = platform.run_of(job_id)
    assert seconds(run) == {"productive": 80, "starting": 30}
    assert (run.kept_seconds, run.lost_seconds) == (80, 0)
