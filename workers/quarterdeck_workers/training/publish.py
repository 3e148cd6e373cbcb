"""Turn the last checkpoint into a model version in Hugging Face's layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator

import torch
from torch import Tensor

from quarterdeck.artifacts import folder_digest
from quarterdeck.specs.beats import CheckpointManifest, OutputAsset
from quarterdeck_workers.checkpoint.reader import CheckpointReader
from quarterdeck_workers.models.folders import export
from quarterdeck_workers.training.inputs import Inputs
from quarterdeck_workers.training.session import Session


def publish(session: Session, manifest: CheckpointManifest, inputs: Inputs) -> None:
    """Rank 0 writes the model folder from the checkpoint's files and reports it; others return.

    Weights are read one tensor at a time, so a model larger than a rank's memory exports too.
    """
    if session.layout.rank != 0:
        return
    context, order = session.context, session.context.order
    context.phase("exporting the model")
    path = f"assets/model/{order.owner_name}/{order.run_id}"
    local = session.store.local_path(f"{path}.writing")
    folder = local if local is not None else context.workdir / "model"
    shutil.rmtree(folder, ignore_errors=True)
    dtype = torch.float32 if session.precision == "fp32" else torch.bfloat16
    with CheckpointReader(session.store, manifest, context.workdir / "export") as reader:

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for name in reader.names("weights"):
                context.heartbeat()
                yield name, reader.read("weights", name)

        export(
            folder, tensors(), session.architecture, vocab_size=session.vocab_size,
            tokenizer_folder=inputs.tokenizer, dtype=dtype,
        )  # fmt: skip
    session.store.delete_prefix(path)
    files = session.store.put_folder(folder, path, move=True)
    shutil.rmtree(folder, ignore_errors=True)
    config = json.dumps(order.spec, sort_keys=True, default=str).encode()
    context.output(
        OutputAsset(
            kind="model",
            name=order.owner_name,
            digest=folder_digest(files),
            uri=session.store.uri_of(path),
            size=sum(file.size for file in files),
            files=files,
            metadata={
                "architecture": session.architecture.model_dump(mode="json"),
                "parameters": session.parameters,
                "tokens": manifest.tokens,
                "loss": manifest.loss,
                "checkpoint_step": manifest.step,
                "precision": session.precision,
                "sequence_length": session.recipe.sequence_length,
                "config_digest": hashlib.sha256(config).hexdigest(),
                "tokenizer": inputs.tokenizer_reference,
            },
        )
    )
