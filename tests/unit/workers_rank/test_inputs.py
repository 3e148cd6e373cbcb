"""What a program reads is laid out on its node, and what it hands on is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quarterdeck.artifacts import ArtifactStore, folder_digest
from quarterdeck.specs.protocol import ResolvedAsset, RunOrder
from quarterdeck_workers.data.dataset import scan
from quarterdeck_workers.rank.errors import DataError
from quarterdeck_workers.rank.inputs import (
    OutputMissing,
    input_variables,
    publish_outputs,
    stage_inputs,
)


def order(store: str, spec: dict[str, Any] | None = None, **inputs: ResolvedAsset) -> RunOrder:
    return RunOrder(
        run_id="run-x", epoch=1, owner_type="job", owner_id="job-x", owner_name="x",
        kind="command", spec=spec or {}, cluster="c", placements=[], artifacts_uri=store,
        api_url="", run_key="",
        inputs={f"inputs.{name}": [asset] for name, asset in inputs.items()},
    )  # fmt: skip


def asset(uri: str, **fields: Any) -> ResolvedAsset:
    return ResolvedAsset(kind="dataset", name="d", version=1, digest="", uri=uri, **fields)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "store").as_uri())


def test_a_version_of_a_local_store_is_linked_and_named_by_a_variable(
    store: ArtifactStore, tmp_path: Path
) -> None:
    store.put_bytes(b"1", "assets/a/one.txt")
    started = order(store.uri, weights=asset(store.uri_of("assets/a")))
    stage_inputs(started, tmp_path / "work")
    variables = input_variables(started, tmp_path / "work")
    folder = Path(variables["QUARTERDECK_INPUT_WEIGHTS"])
    assert folder == Path(variables["QUARTERDECK_INPUTS_DIR"], "weights")
    assert (folder / "one.txt").read_text() == "1"
    assert '"version": 1' in (folder.parent / "inputs.json").read_text()


def test_a_registered_dataset_has_exactly_the_files_of_its_split(
    store: ArtifactStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for number in range(20):
        (source / "deep" / f"{number}.txt").write_text(f"text {number}")
    (source / "left.out").write_text("not selected")
    manifest = scan(source.as_uri(), include=["**/*.txt"], held_out=0.4)
    manifest.save(tmp_path / "manifest")
    store.put_file(tmp_path / "manifest", "manifests/m")
    metadata = {"format": "files", "manifest": "manifests/m"}
    found = {}
    for split in ("train", "held_out", None):
        read = asset(source.as_uri(), metadata=metadata, split=split)
        work = tmp_path / f"work-{split}"
        stage_inputs(order(store.uri, data=read), work)
        folder = Path(input_variables(order(store.uri, data=read), work)["QUARTERDECK_INPUT_DATA"])
        found[split] = {
            str(file.relative_to(folder)): file.read_text()
            for file in folder.rglob("*")
            if file.is_file()
        }
    assert found[None] == {f"deep/{number}.txt": f"text {number}" for number in range(20)}
    assert 0 < len(found["held_out"]) < 20
    assert {**found["train"], **found["held_out"]} == found[None]
    assert not found["train"].keys() & found["held_out"].keys()


def test_what_lies_elsewhere_is_a_uri_and_what_is_gone_is_blamed_on_data(
    store: ArtifactStore, tmp_path: Path
) -> None:
    remote = order(store.uri, raw=asset("s3://bucket/raw"))
    stage_inputs(remote, tmp_path)
    assert input_variables(remote, tmp_path)["QUARTERDECK_INPUT_RAW"] == "s3://bucket/raw"
    for uri in ((tmp_path / "nowhere").as_uri(), store.uri_of("assets/gone")):
        with pytest.raises(DataError):
            stage_inputs(order(store.uri, raw=asset(uri)), tmp_path / "other")
    assert input_variables(order(store.uri), tmp_path) == {}


def test_outputs_become_versions_with_the_digest_of_their_content(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "out/model").mkdir(parents=True)
    (tmp_path / "out/model/weights").write_text("w")
    spec = {"outputs": {"model": "out/model"}}
    (made,) = publish_outputs(order(store.uri, spec), tmp_path)
    assert (made.kind, made.name, made.size) == ("model", "x", 1)
    assert made.digest == folder_digest(made.files)
    assert store.read_bytes(f"{store.path_of(made.uri)}/weights") == b"w"


@pytest.mark.parametrize("path", ["missing", "empty", "out/../../leaves", "link"])
def test_an_output_that_is_not_there_is_the_programs_fault(
    store: ArtifactStore, tmp_path: Path, path: str
) -> None:
    cwd = tmp_path / "cwd"
    (cwd / "empty").mkdir(parents=True)
    (tmp_path / "leaves").mkdir()
    (tmp_path / "leaves" / "secret").write_text("of another")
    (cwd / "link").symlink_to(tmp_path / "leaves")
    with pytest.raises(OutputMissing, match=r"outputs\.dataset"):
        publish_outputs(order(store.uri, {"outputs": {"dataset": path}}), cwd)
    assert not store.exists("assets")
