from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.beats import CheckpointManifest, MetricRow, RunBeat, RunEvent
from quarterdeck_workers.supervisor.spool import Spool, SpoolLimits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATUS: dict[str, Any] = {"epoch": 1, "reported_phase": "running"}


def row(step: int, **values: float) -> MetricRow:
    return MetricRow(step=step, values=values or {"loss": float(step)}, at=NOW)


def manifest(step: int) -> CheckpointManifest:
    return CheckpointManifest(step=step, epoch=1, uri=f"file:///{step}", files=[])


def test_unacknowledged_beat_is_sent_again_unchanged() -> None:
    spool = Spool()
    spool.add_metrics(row(1))
    first = spool.next(STATUS, NOW)
    spool.add_metrics(row(2))
    again = spool.next({**STATUS, "message": "later"}, datetime.now(UTC))
    assert again == first
    spool.acknowledge(first.seq)
    second = spool.next(STATUS, NOW)
    assert (second.seq, [each.step for each in second.metrics]) == (2, [2])


def test_acknowledgement_of_an_older_beat_changes_nothing() -> None:
    spool = Spool()
    spool.acknowledge(spool.next(STATUS, NOW).seq)
    waiting = spool.next(STATUS, NOW)
    spool.acknowledge(1)
    assert spool.next(STATUS, NOW) == waiting


def test_oldest_bulk_is_dropped_and_counted_but_never_a_checkpoint() -> None:
    limits = SpoolLimits(metrics=3, lines=2, events=1)
    spool = Spool(limits)
    for step in range(10):
        spool.add_metrics(row(step))
        spool.add_lines(0, [(0.0, f"line {step}")])
        spool.add_event(RunEvent(type="x", message=str(step), at=NOW))
        spool.add_checkpoint(manifest(step))
    beat = spool.next(STATUS, NOW)
    assert [each.step for each in beat.metrics] == [7, 8, 9]
    assert [line for chunk in beat.logs for _, line in chunk.lines] == [
        "… 8 lines dropped …", "line 8", "line 9",
    ]  # fmt: skip
    assert [event.message for event in beat.events] == ["9"]
    assert len(beat.checkpoints) == 10
    assert beat.dropped == 7 + 8 + 9
    spool.acknowledge(beat.seq)
    assert spool.next(STATUS, NOW).dropped == 0


def test_metrics_of_several_ranks_become_one_row() -> None:
    spool = Spool()
    spool.add_metrics(row(4, loss=1.0))
    spool.add_metrics(row(4, tokens=5.0))
    assert spool.next(STATUS, NOW).metrics[0].values == {"loss": 1.0, "tokens": 5.0}


def test_refused_beat_loses_its_bulk_and_then_itself() -> None:
    spool = Spool()
    spool.add_metrics(row(1))
    spool.add_checkpoint(manifest(1))
    spool.next(STATUS, NOW)
    assert spool.lighten()
    light = spool.next(STATUS, NOW)
    assert (light.seq, light.metrics, light.dropped, len(light.checkpoints)) == (1, [], 1, 1)
    assert not spool.lighten()
    assert spool.next(STATUS, NOW).seq == 2


Action = st.one_of(
    st.tuples(st.just("metric"), st.integers(0, 50)),
    st.tuples(st.just("line"), st.integers(0, 3)),
    st.tuples(st.just("checkpoint"), st.integers(0, 50)),
    st.tuples(st.sampled_from(["deliver", "lose answer", "lose request"]), st.just(0)),
)


@given(st.lists(Action, max_size=80))
def test_whatever_gets_lost_everything_arrives_once_and_in_order(
    actions: list[tuple[str, int]],
) -> None:
    spool = Spool(SpoolLimits(beat_metrics=2, beat_lines=3))
    stored: list[RunBeat] = []
    lines: dict[int, list[str]] = {}
    checkpoints: list[int] = []

    def send(arrives: bool, answered: bool) -> None:
        beat = spool.next(STATUS, NOW)
        if arrives and (not stored or beat.seq > stored[-1].seq):
            stored.append(beat)
        if arrives and answered:
            spool.acknowledge(beat.seq)

    for count, (action, value) in enumerate(actions):
        if action == "metric":
            spool.add_metrics(row(value))
        elif action == "line":
            lines.setdefault(value, []).append(str(count))
            spool.add_lines(value, [(0.0, str(count))])
        elif action == "checkpoint":
            checkpoints.append(value)
            spool.add_checkpoint(manifest(value))
        else:
            send(action != "lose request", action == "deliver")
    while not spool.empty:
        send(True, True)

    assert [beat.seq for beat in stored] == list(range(1, len(stored) + 1))
    assert [each.step for beat in stored for each in beat.checkpoints] == checkpoints
    for rank, said in lines.items():
        chunks = [chunk for beat in stored for chunk in beat.logs if chunk.rank == rank]
        assert [line for chunk in chunks for _, line in chunk.lines] == said
        assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))


def test_a_flood_of_anything_makes_beats_of_bounded_size() -> None:
    spool = Spool()
    for rank in range(8):
        spool.add_lines(rank, [(0.0, "\x1b" * 16_384)] * 200)
        spool.add_lines(rank, [(0.0, "漢" * 10)] * 2_000)
    sizes = []
    while not spool.empty:
        beat = spool.next(STATUS, NOW)
        sizes.append(len(beat.model_dump_json()))
        assert {chunk.rank for chunk in beat.logs} or spool.empty
        spool.acknowledge(beat.seq)
    assert len(sizes) > 10
    assert max(sizes) < 4 * 2**20  # six bytes of JSON for each of 512 Ki characters, and the rest


def test_what_waits_is_bounded_and_every_rank_keeps_its_newest() -> None:
    spool = Spool(SpoolLimits(lines=1_000))
    for second in range(100):
        spool.add_lines(0, [(float(second), f"flood {second}.{each}") for each in range(500)])
        spool.add_lines(1, [(float(second), f"calm {second}")])
    lines: dict[int, list[str]] = {0: [], 1: []}
    while not spool.empty:
        beat = spool.next(STATUS, NOW)
        for chunk in beat.logs:
            lines[chunk.rank] += [line for _, line in chunk.lines]
        spool.acknowledge(beat.seq)
    assert lines[1] == [f"calm {second}" for second in range(100)]
    assert lines[0][-1] == "flood 99.499"
    assert lines[0][0] == f"… {50_000 - 900:,} lines dropped …"
