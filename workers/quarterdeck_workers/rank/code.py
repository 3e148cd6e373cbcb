"""The folder in which a user's program starts: a fresh copy of an upload for each attempt, or one
that the machine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quarterdeck.artifacts import ArtifactError, ArtifactStore, path_of_upload, unpack
from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.errors import CannotStart, blame_of

CODE_FOLDER = "code"


def start_folder(order: RunOrder, workdir: Path) -> Path:
    """Where the program starts; `workdir` is the run's own folder on this node."""
    given = order.spec.get("workdir")
    if not given:
        return workdir
    if isinstance(given, Mapping) or _fetched(given):
        return workdir / CODE_FOLDER
    return Path(unquote(urlsplit(given).path)) if given.startswith("file:") else Path(given)


def fetch_code(order: RunOrder, workdir: Path) -> None:
    """Bring an uploaded folder, or one of another file system, to `start_folder`; once for all
    ranks of a node. Raises CannotStart."""
    given = order.spec.get("workdir")
    target = workdir / CODE_FOLDER
    try:
        if isinstance(given, Mapping):
            store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
            with store.open(path_of_upload(order.project, given["digest"])) as stream:
                unpack(stream, target, digest=given["digest"], size=int(given["size"]))
        elif given and _fetched(given):
            options = order.artifacts_options if _same_scheme(given, order.artifacts_uri) else {}
            ArtifactStore(given, options).get_folder("", target)
    except (ArtifactError, OSError) as error:
        blame = blame_of(error)
        why = f"the workdir could not be brought to the node: {error}"
        raise CannotStart(why, "node" if blame == "unknown" else blame) from error


def _fetched(uri: str) -> bool:
    """Whether the URI is of a file system that programs cannot start in."""
    return "://" in uri and not uri.startswith("file:")


def _same_scheme(one: str, other: str) -> bool:
    return urlsplit(one).scheme == urlsplit(other).scheme
