"""Uploaded folders on the machines: a fresh copy for each attempt, and nothing unsafe."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from worker_recorder import Recorder

from quarterdeck.artifacts import ArtifactStore, pack, path_of_upload
from quarterdeck.client.folders import list_folder


def keep(store: ArtifactStore, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    store.put_bytes(data, path_of_upload("default", digest))
    return {"digest": digest, "size": len(data)}


def test_each_attempt_starts_in_a_fresh_copy(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    folder = tmp_path / "code"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text("import lib.part\n")
    (folder / "lib" / "part.py").write_text("print('part')\n")
    store = ArtifactStore((tmp_path / "store").as_uri())
    upload = keep(store, b"".join(pack(folder, list_folder(folder).entries)))
    command = "pwd; ls; python main.py; touch left-behind-$RANK"
    places = []
    for attempt in ("code-1", "code-2"):
        spec = {"command": command, "workdir": upload}
        run = recorder.submit(attempt, "command", spec, ranks=2, artifacts_uri=store.uri)
        final = recorder.ended(run)
        assert final.reported_phase == "succeeded", final.failure
        place, *names = recorder.lines(run, 0)
        assert "part" in names and {"lib", "main.py"} <= set(names)
        assert not any("left-behind-0" in name for name in names)
        places.append(Path(place))
    assert places[0] != places[1]
    assert not any(place.exists() for place in places)


def test_a_folder_of_the_machine_is_used_where_it_is(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    spec = {"command": "pwd; touch here", "workdir": tmp_path.as_uri()}
    run = recorder.submit("machine-folder", "command", spec)
    assert recorder.ended(run).reported_phase == "succeeded"
    assert recorder.lines(run) == [str(tmp_path)]
    assert (tmp_path / "here").exists()


def test_hostile_and_missing_uploads_end_the_attempt_with_their_blame(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    store = ArtifactStore((tmp_path / "store").as_uri())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"))
    spec = {"command": "true", "workdir": keep(store, out.getvalue())}
    run = recorder.submit("hostile", "command", spec, artifacts_uri=store.uri)
    failure = recorder.ended(run).failure
    assert failure is not None and failure.blame == "user_code"
    assert "leads out of the folder" in failure.message
    spec = {"command": "true", "workdir": {"digest": "0" * 64, "size": 1}}
    run = recorder.submit("missing", "command", spec, artifacts_uri=store.uri)
    failure = recorder.ended(run).failure
    assert failure is not None and failure.blame == "node", failure
    assert "0" * 64 in failure.message
