"""Small trainings without the platform: data from a module's source, and orders for a gang.

For tests and measurements, together with `gang`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.protocol import ResolvedAsset, ResumeFrom, RunOrder
from quarterdeck_workers.data.shards import Index, Shard
from quarterdeck_workers.data.tokenizer import save_tokenizer, tokenizer_digest, train_bpe
from quarterdeck_workers.parallel.layout import Layout
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.training.layouts import parallelism_of

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 64, "position_embedding": "learned",
    "norm": "layernorm", "activation": "gelu", "qkv_bias": True, "attention_output_bias": True,
    "mlp_bias": True, "tie_word_embeddings": True,
}  # fmt: skip


class Workshop:
    """An artifact store with a tokenizer and token shards of a module's source."""

    def __init__(self, folder: Path, domains: tuple[str, ...] = ("code",)) -> None:
        self.folder = folder
        self.artifacts = folder / "artifacts"
        text = Path(argparse.__file__).read_text(encoding="utf-8")
        tokenizer = train_bpe([text], 384).tokenizer
        save_tokenizer(tokenizer, self.artifacts / "tokenizer")
        sha = tokenizer_digest(self.artifacts / "tokenizer")
        ids = np.array(tokenizer.encode(text).ids, dtype="<u2")
        for number, name in enumerate(domains):
            part = np.array_split(ids, len(domains))[number]
            self._write(self.artifacts / name / "train", part, tokenizer.get_vocab_size(), sha)
        self.domains = domains

    @staticmethod
    def _write(folder: Path, ids: Any, vocabulary: int, tokenizer_sha: str) -> None:
        folder.mkdir(parents=True)
        (folder / "shard-00000.bin").write_bytes(ids.tobytes())
        np.save(folder / "shard-00000.documents.npy", np.array([[0, 0], [len(ids), len(ids)]]))
        sha = hashlib.sha256(ids.tobytes()).hexdigest()
        shard = Shard("shard-00000.bin", len(ids), len(ids), 1, sha)
        Index("uint16", vocabulary, 0, tokenizer_sha, (shard,)).save(folder)

    def order(
        self, name: str, *, architecture: dict[str, Any] = LLAMA, resume: Any = None,
        epoch: int = 1, checkpoints: dict[str, Any] | None = None, precision: str = "fp32",
        parallelism: dict[str, Any] | None = None, artifacts: Path | None = None,
        sync: dict[str, Any] | None = None,
        **training: Any,
    ) -> RunOrder:  # fmt: skip
        """An order for a run of job `name`; `training` overrides the recipe."""
        layout = parallelism or {"data": 1}
        recipe = {
            "steps": 12, "sequence_length": 32, "global_batch_size": 16, "learning_rate": 3e-3,
            "warmup_steps": 4, **training,
        }  # fmt: skip
        spec = {
            "kind": "pretrain", "name": name, "architecture": architecture,
            "datasets": list(self.domains), "parallelism": layout, "training": recipe,
            "precision": precision, "sync": sync, "checkpoints": checkpoints or {"every": 1000},
        }  # fmt: skip
        root = artifacts or self.artifacts
        tokenizer = {"name": "bpe", "version": 1, "uri": (root / "tokenizer").as_uri()}
        return RunOrder(
            run_id=f"run-{name}-{epoch}", epoch=epoch, owner_type="job", owner_id=f"job-{name}",
            owner_name=name, kind="pretrain", spec=json.loads(json.dumps(spec)), cluster="local",
            placements=[],
            inputs={
                "datasets": [
                    ResolvedAsset(
                        kind="dataset", name=domain, version=1, digest="",
                        uri=(root / domain).as_uri(), metadata={"tokenizer": tokenizer},
                    )
                    for domain in self.domains
                ]
            },
            resume=ResumeFrom(
                checkpoint_id="ckpt-test", step=resume["step"], uri=resume["uri"], manifest=resume
            ) if resume else None,
            artifacts_uri=root.as_uri(), api_url="", run_key="",
        )  # fmt: skip


def count_reductions(context: RankContext) -> None:
    """An entry point: train, and tell what was reduced over the data-parallel group.

    The result `reductions` is [calls, elements] summed over the run; what is smaller than 64
    elements (norms, losses) is not a gradient.
    """
    from quarterdeck_workers.training import pretrain

    spec = PretrainSpec.model_validate(context.order.spec)
    layout = Layout.of(parallelism_of(spec, context.world_size), context.rank)
    mine = next(group for group in layout.data_groups() if layout.rank in group)
    counts = [0, 0]

    def counted(function: Any) -> Any:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            tensor = keywords.get("tensor", arguments[0] if arguments else None)
            group = keywords.get("group")
            ranks = dist.get_process_group_ranks(group) if group is not None else []
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= 64 and ranks == mine:
                counts[0] += 1
                counts[1] += tensor.numel()
            return function(*arguments, **keywords)

        return wrapper

    for name in ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor"):
        setattr(dist, name, counted(getattr(dist, name)))
    pretrain.main(context)
    context.result("reductions", counts)
