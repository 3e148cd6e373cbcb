"""A seeded fault for each kind of process, and one for Ray's GCS, under a steady load.

The same storm and the same judge as `python -m benchmarks.faults`, which makes a thousand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_load import RANKS, Load
from benchmarks.faults import Storm, doctor, drain, prove
from benchmarks.installation import Installation, Shape, installation
from quarterdeck.processes.chaos_watch import Watcher

KINDS = ("agent", "api", "controller", "gateway", "host", "parent", "rank", "ranks", "supervisor")
LIVE = 2
LIVES_WITHIN_S = 180.0


@pytest.fixture(scope="module")
def platform() -> Iterator[Installation]:
    with installation(Shape(slots=4 * RANKS * LIVE, node_ip="127.0.0.11")) as platform:
        yield platform


@pytest.mark.timeout(1200)
def test_no_job_is_lost_run_twice_or_told_twice(platform: Installation, tmp_path: Path) -> None:
    load = Load(platform.connect, tmp_path, LIVE, seed=7, steps=15)
    watcher = Watcher(
        platform.home, lambda: platform.connect(retry_seconds=0), platform.gateway_answers
    )
    storm = Storm(platform, watcher, 7, dict.fromkeys(KINDS, 1))
    watcher.on_event = storm.on_event
    watcher.start()
    load.start()
    faults = list(KINDS)
    random.Random(7).shuffle(faults)
    for number, kind in enumerate([*faults, "gcs"], 1):
        until = time.monotonic() + LIVES_WITHIN_S
        while storm.one(number, kind) is None:
            assert time.monotonic() < until, f"nothing of kind {kind} lived"
            time.sleep(0.5)
    storm.settle()
    load.stop()
    with platform.connect() as client:
        drain(client, list(load.acknowledged.values()), 600)
        watcher.settle(60)
        watcher.close()
        verdict = prove(client, load, tmp_path)
        healthy, words = doctor(platform)
    assert (verdict.lost, verdict.twice, verdict.doubled) == ([], [], [])
    assert healthy, words
    assert storm.kinds == {**dict.fromkeys(KINDS, 1), "gcs": 1}
    assert len(load.acknowledged) >= LIVE + 1
    silent = [each.fault for each in watcher.recoveries if not each.over]
    assert not silent, f"nothing followed {silent}"
