"""What a document needs to exist: datasets, tokenizers, models, other jobs, secrets. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quarterdeck.specs.batch import BatchSpec
from quarterdeck.specs.graph import ASSETS, Asset, Condition
from quarterdeck.specs.kinds import (
    AnyJob,
    CommandSpec,
    DataSpec,
    EvaluateSpec,
    PretrainSpec,
    ServiceSpec,
    TokenizerSpec,
)
from quarterdeck.specs.references import Reference, parse_reference


@dataclass(frozen=True)
class Need:
    """One reference of a document. `assets`: what it may refer to; empty: only the end of a job
    is needed."""

    field: str
    path: str
    reference: Reference
    assets: tuple[Asset, ...]
    condition: Condition = "success"
    """How the job must end, where one is named."""


def needs_of(document: AnyJob | ServiceSpec) -> Iterator[Need]:
    """Every reference, in the order of the fields."""
    if isinstance(document, (TokenizerSpec, BatchSpec)):
        yield _need("dataset", "dataset", document.dataset, "dataset")
    if isinstance(document, (DataSpec, PretrainSpec)) and document.tokenizer is not None:
        yield _need("tokenizer", "tokenizer", document.tokenizer, "tokenizer")
    if isinstance(document, (EvaluateSpec, BatchSpec, ServiceSpec)) and document.model is not None:
        yield _need("model", "model", document.model, "model")
    if isinstance(document, (DataSpec, PretrainSpec, EvaluateSpec)):
        for place, dataset in enumerate(document.datasets):
            yield _need("datasets", f"datasets[{place}]", dataset.name, "dataset")
    if isinstance(document, CommandSpec):
        for name, read in document.inputs.items():
            path, assets = f"inputs.{name}", (read.kind,) if read.kind else ASSETS
            yield Need(path, path, parse_reference(read.reference), assets)
    if not isinstance(document, ServiceSpec):
        for place, after in enumerate(document.after):
            reference = Reference(job=after.job)
            yield Need("after", f"after[{place}]", reference, (), after.on)


def _need(field: str, path: str, text: str, asset: Asset) -> Need:
    return Need(field, path, parse_reference(text), (asset,))
