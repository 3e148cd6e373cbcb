"""Versions that a user's program reads, laid out on its node, and the folders that it hands on.

`$QUARTERDECK_INPUTS_DIR/NAME` leads to the files: a link where the machine can read them where
they lie, else a copy. A registered dataset's folder has exactly the files of its version (and
split), as links. What is remote and lies outside the artifact store is not fetched: then
`$QUARTERDECK_INPUT_<NAME>` is its URI, otherwise the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quarterdeck.artifacts import ArtifactStore, UnsafePath, folder_digest
from quarterdeck.specs.beats import OutputAsset
from quarterdeck.specs.protocol import ResolvedAsset, RunOrder
from quarterdeck_workers.data.assets import FILES, folder_of, manifest_of, output_path, store_of
from quarterdeck_workers.rank.errors import DataError

INPUTS_FOLDER = ".inputs"
INPUTS_DIR = "QUARTERDECK_INPUTS_DIR"
INPUT = "QUARTERDECK_INPUT_"
LINEAGE = "inputs.json"
"""In the folder: what each name resolved to, as {name: ResolvedAsset}."""
_FIELD = "inputs."


class OutputMissing(Exception):
    """A program succeeded without making what its spec says that it hands on."""

    blame = "user_code"


def inputs_of(order: RunOrder) -> dict[str, ResolvedAsset]:
    """The command's inputs by the names that its spec gives them."""
    return {
        field.removeprefix(_FIELD): assets[0]
        for field, assets in order.inputs.items()
        if field.startswith(_FIELD) and assets
    }


def stage_inputs(order: RunOrder, workdir: Path) -> None:
    """Lay the inputs out, once per node. Raises DataError for what is not there, and what the
    store raises."""
    inputs = inputs_of(order)
    if not inputs:
        return
    store = store_of(order)
    folder = workdir / INPUTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, asset in inputs.items():
        _stage(asset, store, folder / name, workdir)
    lineage = {name: asset.model_dump(mode="json") for name, asset in inputs.items()}
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2), encoding="utf-8")


def input_variables(order: RunOrder, workdir: Path) -> dict[str, str]:
    """The variables that tell a program of its inputs; empty where it has none."""
    inputs = inputs_of(order)
    if not inputs:
        return {}
    folder = workdir / INPUTS_FOLDER
    variables = {INPUTS_DIR: str(folder)}
    for name, asset in inputs.items():
        there = folder / name
        variables[INPUT + name.upper()] = str(there) if there.exists() else asset.uri
    return variables


def _stage(asset: ResolvedAsset, store: ArtifactStore, target: Path, workdir: Path) -> None:
    if asset.metadata.get("format") == FILES:
        manifest = manifest_of(asset, store, workdir)
        root = _local(manifest.uri)
        if root is None:
            return
        for file in manifest.of(asset.split):
            link = target / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / file.path)
        return
    try:
        source: Path | None = folder_of(asset, store, workdir)
    except UnsafePath:  # not in the artifact store
        source = _local(asset.uri)
        if source is not None and not source.exists():
            raise DataError(f"{asset.name}: there is nothing at {asset.uri}") from None
    if source is not None:
        target.symlink_to(source)


def _local(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if parts.scheme == "" else None


def publish_outputs(order: RunOrder, cwd: Path) -> list[OutputAsset]:
    """Copy the folders that the spec names as `outputs` to the store; the versions to register.

    Raises OutputMissing for a folder that is absent, empty or outside `cwd`, and what the store
    raises (DiskFull, OSError): then nothing of it counts.
    """
    store = store_of(order)
    published = []
    for kind, path in dict(order.spec.get("outputs") or {}).items():
        folder = cwd / path
        if not folder.resolve().is_relative_to(cwd.resolve()):
            raise OutputMissing(f"outputs.{kind}: {path} leads out of the working directory")
        if not folder.is_dir():
            raise OutputMissing(f"outputs.{kind}: it ended without making the folder {path}")
        target = output_path(order, kind)
        files = store.put_folder(folder, target)
        if not files:
            raise OutputMissing(f"outputs.{kind}: the folder {path} is empty")
        published.append(
            OutputAsset(
                kind=kind, name=order.owner_name, digest=folder_digest(files),
                uri=store.uri_of(target), size=sum(file.size for file in files), files=files,
            )
        )  # fmt: skip
    return published
