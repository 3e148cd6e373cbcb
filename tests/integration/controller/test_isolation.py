"""A row that nobody foresaw holds up nobody else, in any loop."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.beats import OutputAsset
from quarterdeck.store.tables import JobRow, RevisionRow


def spoil_job(platform: Any, job_id: str, **values: Any) -> None:
    with platform.database.write() as session:
        row = session.get_one(JobRow, job_id)
        for name, value in values.items():
            setattr(row, name, value)


def spoil_service(platform: Any, service_id: str, **fields: Any) -> None:
    with platform.database.write() as session:
        row = session.get_one(RevisionRow, (service_id, 1))
        row.spec = {**row.spec, **fields}


def make_model(platform: Any) -> None:
    _, run = platform.started({"kind": "dataset", "name": "m", "uri": "file:///m"})
    output = OutputAsset(kind="model", name="m", digest="x", uri="file:///m")
    platform.agent.say(run, "succeeded", outputs=[output])
    platform.controller.tick()


def test_a_job_that_cannot_be_resolved_does_not_stop_admission(platform: Any, make: Any) -> None:
    broken = platform.submit(make["command"]("broken"))
    spoil_job(platform, broken, spec={"after": 3})
    sound = platform.submit(make["command"]("sound"))
    with pytest.raises(TypeError):
        platform.controller.admission.tick()
    assert platform.job(broken).phase == "waiting"
    assert platform.job(sound).phase == "starting"
    other = platform.submit(make["command"]("other"))
    platform.controller.admission.tick()  # the broken one rests, so the loop is not slowed down
    assert platform.job(other).phase == "starting"


def test_a_job_of_unreadable_size_does_not_stop_placement(platform: Any, make: Any) -> None:
    broken = platform.submit(make["command"]("broken", priority="high"))
    spoil_job(platform, broken, phase="queued", layout={"data": "many"})
    sound = platform.submit(make["command"]("sound"))
    with pytest.raises(ValueError, match="many"):
        platform.controller.admission.tick()
    assert platform.job(broken).phase == "queued"
    assert platform.job(sound).phase == "starting"
    platform.controller.admission.tick()


def test_a_broken_service_holds_up_neither_services_nor_jobs(platform: Any, make: Any) -> None:
    make_model(platform)
    chat = {"kind": "service", "model": "m"}
    broken = platform.deploy({**chat, "name": "broken"})
    spoil_service(platform, broken, model=3)
    sound = platform.deploy({**chat, "name": "sound"})
    with pytest.raises((TypeError, AttributeError)):
        platform.controller.services.tick()
    assert platform.service(broken).model_version is None
    assert platform.service(sound).model_version == "m@1"

    spoil_service(platform, sound, parallelism={"tensor": "many"})
    job = platform.submit(make["command"]("job"))
    with pytest.raises(ValueError, match="many"):
        platform.controller.admission.tick()
    assert platform.job(job).phase == "starting"
    assert platform.controller.admission.tick() == 0, "the broken service rests"
