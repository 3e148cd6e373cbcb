"""Entry point of `evaluate` jobs: perplexity and bits per byte of a model, with yardsticks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.kinds import EvaluateSpec
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.data.assets import TOKENS, folder_of, manifest_of, store_of
from quarterdeck_workers.data.dataset import Progress, Split, no_progress
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.reporting import Reporter, Stopped, beating
from quarterdeck_workers.data.shards import Index
from quarterdeck_workers.evaluation.corpus import (
    ScoredText,
    limited,
    limited_bytes,
    texts_of_files,
    texts_of_shards,
)
from quarterdeck_workers.evaluation.perplexity import (
    Logits,
    Score,
    compress,
    stream_nats,
    stream_of,
    token_counts,
    unigram_nats,
)
from quarterdeck_workers.models.folders import end_of_text_id
from quarterdeck_workers.rank.context import RankContext

UNIGRAM_BYTES = 32 << 20
"""The unigram yardstick learns from at most this much of the training split."""
LONGEST_DEFAULT = 2048
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to score. `sequence_length` is the longest context it is good for."""

    logits: Logits
    tokenizer: Path
    eos: int
    vocab_size: int
    sequence_length: int
    device: torch.device


def evaluate_main(context: RankContext) -> None:
    """Score `order.inputs['model'][0]` on every dataset and report results.

    With one dataset results are called `perplexity`, `bits_per_byte` and so on; with several
    `NAME.perplexity`. Raises DataProblem.
    """
    order = context.order
    spec = EvaluateSpec.model_validate(order.spec)
    store = store_of(order)
    models = order.inputs.get("model", [])
    if not models:
        raise DataProblem("model: the order names no version to evaluate")
    context.phase(f"loading {models[0].name}@{models[0].version}", running=True)
    model = open_model(folder_of(models[0], store, context.workdir), models[0].metadata)
    assets = order.inputs.get("datasets", [])
    try:
        for asset in assets:
            with beating(context):
                found = evaluate(
                    model, asset, store, context.workdir, max_tokens=spec.max_tokens,
                    sequence_length=spec.sequence_length,
                    progress=Reporter(context, f"scoring {asset.name}"),
                )  # fmt: skip
            wanted = {name: value for name, value in found.items() if _is_wanted(name, spec)}
            for name, value in wanted.items():
                context.result(name if len(assets) == 1 else f"{asset.name}.{name}", value)
    except Stopped:
        return


def _is_wanted(name: str, spec: EvaluateSpec) -> bool:
    if name.endswith("perplexity"):
        return "perplexity" in spec.metrics
    return not name.endswith("bits_per_byte") or "bits_per_byte" in spec.metrics


def open_model(folder: Path, metadata: dict[str, Any] | None = None) -> OpenedModel:
    """Open a Hugging Face folder for scoring, on an accelerator where there is one.

    `metadata.sequence_length`, the length it was trained on, bounds the default context. Raises
    DataProblem when the folder has no usable tokenizer, OSError for missing files.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar fills the job's log with carriage returns
    eos = end_of_text_id(folder) if (folder / "tokenizer.json").is_file() else None
    if eos is None:
        raise DataProblem(
            f"{folder} has no tokenizer.json with an eos_token: export the model with its tokenizer"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32 if device.type == "cpu" else "auto"
    )
    model.to(device).eval()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    length = int((metadata or {}).get("sequence_length") or longest or LONGEST_DEFAULT)

    def logits(tokens: Tensor) -> Tensor:
        values: Tensor = model(tokens, use_cache=False).logits
        return values

    return OpenedModel(
        logits, folder, eos, model.config.vocab_size, min(length, LONGEST_DEFAULT), device
    )


def evaluate(
    model: OpenedModel,
    asset: ResolvedAsset,
    store: ArtifactStore,
    workdir: Path,
    *,
    max_tokens: int | None = None,
    sequence_length: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Named results of one dataset version (files or token shards).

    Without a split named, the held-out one where there is any, else all. Windows stand side by
    side. The unigram yardstick learns from the training split with add-one smoothing (from the
    scored texts themselves where there is none; `unigram_from` says which). Raises DataProblem
    when the split is empty.
    """
    corpus = _Corpus(model, asset, store, workdir)
    split = asset.split or corpus.default_split()
    texts = list(limited(corpus.texts(split), max_tokens))
    if not texts:
        raise DataProblem(
            f"the {split or 'whole'} split of dataset {asset.name} has no text: register it with "
            "a larger held_out share"
        )
    length = sequence_length or model.sequence_length
    stream = stream_of((text.tokens for text in texts), model.eos)
    compressed = compress(text.content for text in texts)
    learned = "train" if split == "held_out" else "itself"
    training = corpus.texts("train") if learned == "train" else iter(texts)
    counts = token_counts(limited_bytes(training, UNIGRAM_BYTES), model.vocab_size)
    if not counts.any():
        counts, learned = token_counts((t.tokens for t in texts), model.vocab_size), "itself"
    size = len(stream) - 1
    nats = stream_nats(
        model.logits, stream, sequence_length=length, device=model.device, progress=progress,
        batch_size=max(1, _BATCH_TOKENS // length),
    )  # fmt: skip
    score = Score(nats, size, compressed.plain)
    unigram = Score(unigram_nats(counts, stream), size, compressed.plain)
    return {
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "unigram_perplexity": unigram.perplexity,
        "unigram_bits_per_byte": unigram.bits_per_byte,
        "unigram_from": learned,
        "gzip_bits_per_byte": compressed.gzip_bits_per_byte,
        "xz_bits_per_byte": compressed.xz_bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "documents": len(texts),
        "split": split or "all",
        "sequence_length": length,
    }


class _Corpus:
    """The texts of a dataset version by split, whichever its format."""

    def __init__(
        self, model: OpenedModel, asset: ResolvedAsset, store: ArtifactStore, workdir: Path
    ) -> None:
        self._model = model
        self._tokens = asset.metadata.get("format") == TOKENS
        if self._tokens:
            self._folder = folder_of(asset, store, workdir)
        else:
            self._manifest = manifest_of(asset, store, workdir)

    def default_split(self) -> Split | None:
        """Held out where there is any, else everything (None)."""
        if self._tokens:
            return "held_out" if Index.load(self._folder / "held_out").tokens else "train"
        return "held_out" if self._manifest.of("held_out") else None

    def texts(self, split: Split | None) -> Iterator[ScoredText]:
        if self._tokens:
            return texts_of_shards(self._folder / (split or "train"), self._model.tokenizer)
        return texts_of_files(self._manifest, split, self._model.tokenizer, self._model.eos)
