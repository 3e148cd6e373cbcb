"""Uploads over REST: whole and verified or not there, and of one project."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import update

from quarterdeck.artifacts import ArtifactStore, path_of_upload
from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import JobRow, UploadRow
from quarterdeck.store.uploads import UploadKey, claim_upload, forget_upload
from tests.integration.api.conftest import Asker, Platform, command, paths, problem

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def send(asker: Asker, content: bytes = CONTENT, digest: str = DIGEST, query: str = "") -> Any:
    return asker.put(f"/artifacts/{digest}{query}", content=content)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_upload_is_verified_kept_once_and_given_back(
    open_api: Callable[..., Platform], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    platform = open_api(artifacts_uri=store.as_uri(), upload_limit=len(CONTENT) + 1)
    admin = platform.admin
    assert problem(admin.get(f"/artifacts/{DIGEST}")) == "not_found"
    wrong = send(admin, CONTENT[:-1])
    assert (wrong.status_code, problem(wrong)) == (422, "digest_mismatch")
    assert files(store) == []
    large = send(admin, CONTENT + b"xx")
    assert (large.status_code, problem(large)) == (413, "body_too_large")
    parts = (CONTENT[start : start + 1000] for start in range(0, len(CONTENT), 1000))
    assert send(admin, parts).json() == {"digest": DIGEST, "size": len(CONTENT)}
    (kept,) = files(store)
    assert kept.read_bytes() == CONTENT
    # What is there is not received again, so not even judged.
    assert send(admin, b"anything").json() == {"digest": DIGEST, "size": len(CONTENT)}
    assert admin.get(f"/artifacts/{DIGEST}").json()["size"] == len(CONTENT)
    assert admin.get(f"/artifacts/{DIGEST}/content").content == CONTENT
    assert problem(admin.get("/artifacts/..%2Fkeys")) in ("unknown_route", "invalid_parameter")
    assert problem(send(admin, digest="F" * 64)) == "invalid_parameter"


def test_uploads_that_are_too_long_underway_leave_nothing(
    open_api: Callable[..., Platform], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    platform = open_api(artifacts_uri=store.as_uri(), upload_limit=1_500_000)
    packets = (CONTENT[start : start + 10_000] for start in range(0, len(CONTENT), 10_000))
    assert problem(send(platform.admin, packets)) == "body_too_large"
    assert files(store) == []


def test_projects_and_access(open_api: Callable[..., Platform]) -> None:
    platform = open_api()
    platform.admin.post("/projects", {"name": "nlp"})
    mine = platform.key("operator", "nlp")
    assert send(mine).status_code == 200
    assert problem(send(platform.key("viewer"))) == "access_denied"
    assert problem(mine.get(f"/artifacts/{DIGEST}?project=default")) == "access_denied"
    assert problem(platform.admin.get(f"/artifacts/{DIGEST}")) == "not_found"
    assert platform.admin.get(f"/artifacts/{DIGEST}?project=nlp").status_code == 200


def test_jobs_name_uploads_that_are_there(open_api: Callable[..., Platform]) -> None:
    admin = open_api().admin
    upload = {"digest": DIGEST, "size": len(CONTENT), "commit": "c" * 40}
    missing = admin.post("/jobs", command("a", workdir={**upload, "diff": "0" * 64}))
    assert problem(missing) == "invalid_document"
    assert paths(missing) == ["workdir.digest", "workdir.diff"]
    dry = {"documents": [command("a", workdir=upload)], "dry_run": True}
    assert admin.post("/apply", dry).status_code == 200
    local = admin.post("/jobs", command("a", workdir="src"))
    assert paths(local) == ["workdir"] and "your machine" in local.text
    for place in ("/srv/code", "file:///srv/code", "s3://bucket/code"):
        assert admin.post("/jobs", command("b", workdir=place)).status_code == 201
    send(admin)

    def apply(**fields: Any) -> str:
        document = command("c", workdir={**upload, **fields})
        return str(admin.post("/apply", {"documents": [document]}).json()["results"][0]["action"])

    assert apply() == "created"
    # The same bytes from another commit are the same job.
    assert apply(commit="d" * 40, dirty=True, folder="/home/b") == "unchanged"


def test_what_retention_took_is_asked_for_again(
    open_api: Callable[..., Platform], tmp_path: Path
) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    platform = open_api(artifacts_uri=store.uri)
    admin, key = platform.admin, UploadKey("default", DIGEST)
    send(admin)
    upload = {"digest": DIGEST, "size": len(CONTENT)}
    job = admin.post("/jobs", command("a", workdir=upload)).json()["id"]
    with platform.database.write() as session:
        session.execute(update(JobRow).values(phase="failed", ended_at=database_now(-9e6)))
        session.execute(update(UploadRow).values(touched_at=database_now(-9e6)))
        assert claim_upload(session, key, "claim-1")
    # From its claim on nobody finds it, and who sends it waits for the deletion.
    assert problem(admin.get(f"/artifacts/{DIGEST}")) == "not_found"
    for answer in (
        admin.post("/jobs", command("a", workdir=upload)), admin.post(f"/jobs/{job}/retry")
    ):  # fmt: skip
        assert (problem(answer), paths(answer)) == ("invalid_document", ["workdir.digest"])
        assert "submit the folder again" in answer.json()["detail"]
    sent: list[int] = []
    sender = threading.Thread(target=lambda: sent.append(send(admin).status_code))
    sender.start()
    sender.join(1)
    assert sender.is_alive()
    store.delete_prefix(path_of_upload("default", DIGEST))
    with platform.database.write() as session:
        assert forget_upload(session, key, "claim-1")
    sender.join(30)
    assert sent == [200]
    assert admin.post(f"/jobs/{job}/retry").status_code == 200
    with platform.database.write() as session:
        assert not claim_upload(session, key, "claim-2")
