"""What a training reads: token shards and the tokenizer that made them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.loader import DomainSource, TokenLoader
from quarterdeck_workers.data.tokenizer import tokenizer_digest
from quarterdeck_workers.parallel.layout import Layout
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.training.errors import WrongData
from quarterdeck_workers.training.layouts import parallelism_of
from quarterdeck_workers.training.model import padded_vocabulary


@dataclass(frozen=True)
class Inputs:
    """The opened data. `architecture.vocab_size` is set and equals `vocab_size`."""

    loader: TokenLoader
    architecture: Architecture
    vocab_size: int
    tokenizer: Path | None
    """The tokenizer's folder on this machine."""
    tokenizer_reference: dict[str, Any]
    """Name and version of the tokenizer, for the model's metadata."""


def open_inputs(context: RankContext, spec: PretrainSpec) -> Inputs:
    """Open all datasets and the tokenizer; files of a remote store are fetched once a node.

    Raises WrongData naming the dataset and the remedy.
    """
    order = context.order
    store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
    assets = order.inputs.get("datasets", [])
    if len(assets) != len(spec.datasets):
        raise WrongData(f"{len(spec.datasets)} datasets asked for, {len(assets)} resolved")
    with _one_at_a_time(context.workdir):
        sources = [
            DomainSource(
                name=asset.name,
                folder=_folder(store, asset.uri, context.workdir) / (asset.split or "train"),
                weight=wanted.weight,
                passes=wanted.passes,
            )
            for asset, wanted in zip(assets, spec.datasets, strict=True)
        ]
        reference = _tokenizer_reference(order.inputs.get("tokenizer", []), assets)
        uri = reference.get("uri")
        tokenizer = _folder(store, str(uri), context.workdir) if uri else None
    try:
        loader = TokenLoader(
            sources, sequence_length=spec.training.sequence_length, seed=spec.training.seed
        )
        if tokenizer is not None:
            _check_made_by(loader, tokenizer, str(reference.get("name")))
    except DataProblem as error:
        raise WrongData(str(error)) from error
    tensor = Layout.of(parallelism_of(spec, context.world_size), context.rank).tensor
    size = vocabulary_of(spec.architecture, loader.vocab_size, tensor)
    architecture = spec.architecture.model_copy(update={"vocab_size": size})
    reference.pop("uri", None)
    return Inputs(loader, architecture, size, tokenizer, reference)


def _check_made_by(loader: TokenLoader, tokenizer: Path, name: str) -> None:
    if tokenizer_digest(tokenizer) != loader.shards[0].index.tokenizer_sha256:
        raise WrongData(
            f"the datasets were not made by tokenizer {name}: leave tokenizer out, or tokenize "
            "the datasets with it"
        )


def vocabulary_of(architecture: Architecture, tokens: int, tensor: int) -> int:
    """Rows of the embedding: the architecture's own number, else the tokenizer's padded.

    Raises ValueError when the tokenizer has more tokens than the architecture has rows.
    """
    if architecture.vocab_size is None:
        return padded_vocabulary(tokens, tensor)
    if architecture.vocab_size < tokens:
        raise ValueError(
            f"architecture.vocab_size {architecture.vocab_size} is smaller than the tokenizer's "
            f"{tokens}: leave it out, or set at least {tokens}"
        )
    return architecture.vocab_size


def _tokenizer_reference(
    given: list[ResolvedAsset], datasets: list[ResolvedAsset]
) -> dict[str, Any]:
    """Name, version and URI of the tokenizer: the spec's, else the one that made the data."""
    if given:
        asset = given[0]
        return {"name": asset.name, "version": asset.version, "uri": asset.uri}
    for asset in datasets:
        made_by = asset.metadata.get("tokenizer")
        if isinstance(made_by, dict):
            return dict(made_by)
    return {}


def _folder(store: ArtifactStore, uri: str, workdir: Path) -> Path:
    """The folder of a version on this machine."""
    path = store.path_of(uri)
    local = store.local_path(path)
    if local is not None:
        return local
    target = workdir / "inputs" / path
    if not (target / ".complete").exists():
        store.get_folder(path, target)
        (target / ".complete").touch()
    return target


@contextmanager
def _one_at_a_time(workdir: Path) -> Iterator[None]:
    """Ranks of a node take turns, so that the first fetches and the others find."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "inputs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
