"""What a run reports, learns, leaves alone and refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file

from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.data.tokenizer import save_tokenizer, train_bpe
from quarterdeck_workers.models.folders import load_model
from quarterdeck_workers.models.initialisation import build_model
from quarterdeck_workers.training.gang import run_gang
from quarterdeck_workers.training.workshop import GPT2, LLAMA, Workshop

COUNTED = "quarterdeck_workers.training.workshop:count_reductions"


def folder_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def test_metrics_of_every_step(trainings: Any) -> None:
    steps = trainings.shared("cube").of("step")
    assert [m["step"] for m in steps] == list(range(1, 13))
    for message in steps:
        metrics = message["metrics"]
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["tokens_per_second"] == pytest.approx(
            8 * metrics["tokens_per_second_per_accelerator"]
        )
        assert metrics["step_seconds"] == pytest.approx(512 / metrics["tokens_per_second"])
        assert metrics["tokens"] == message["step"] * 512
        assert {"grad_norm", "learning_rate", "memory/activation"} <= metrics.keys()
        assert "mfu" not in metrics, "a declared CPU slot has no honest peak"
    assert steps[-1]["eta_seconds"] == 0
    assert steps[3]["metrics"]["learning_rate"] == 3e-3
    others = trainings.shared("cube").of("step", rank=7)
    assert [m["metrics"] for m in others] == [{}] * 12


def test_memory_is_split_over_the_ranks(trainings: Any) -> None:
    one = trainings.shared("one").of("step")[-1]["metrics"]
    cube = trainings.shared("cube").of("step")[-1]["metrics"]
    assert one["memory/model"] == 4 * 197_184
    assert one["memory/optimizer"] >= 12 * 197_184
    assert cube["memory/model"] < 0.3 * one["memory/model"]
    assert cube["memory/optimizer"] < 0.15 * one["memory/optimizer"]


@pytest.mark.parametrize(("name", "architecture"), [("cube", LLAMA), ("gpt2", GPT2)])
def test_published_model_is_what_transformers_reads(
    trainings: Any, name: str, architecture: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    [message] = trainings.shared(name).of("output")
    asset = message["asset"]
    folder = folder_of(asset["uri"])
    assert (asset["kind"], asset["name"]) == ("model", name)
    assert asset["metadata"]["checkpoint_step"] == 12
    assert asset["size"] == sum(p.stat().st_size for p in folder.iterdir())
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours, _ = load_model(folder)
    tokens = torch.arange(60).view(2, 30)
    with torch.inference_mode():
        assert (theirs(tokens).logits - ours(tokens)).abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(folder)("def f():").input_ids
    assert theirs.num_parameters() == asset["metadata"]["parameters"]


def test_gradients_are_synchronised_once_a_step(trainings: Any, tmp_path: Path) -> None:
    """Eight micro-batches a step reduce as many elements as one micro-batch."""
    reduced = {}
    for size in (1, 8):
        order = trainings.workshop.order(
            f"counted-{size}", steps=3, micro_batch_size=size,
            parallelism={"data": 2, "pipeline": 2},
        )  # fmt: skip
        gang = run_gang(order, 4, tmp_path / str(size), entry=COUNTED)
        assert gang.failures == []
        reduced[size] = [gang.of("result", rank)[0]["value"] for rank in range(4)]
    assert reduced[1] == reduced[8]
    held = [sum(elements for _, elements in reduced[1][i::2]) for i in range(2)]
    saved = 3 * 197_184  # the last checkpoint gathers weights and both moments
    assert held == [3 * 197_184 + saved] * 2


def test_frozen_parameters_stay_as_initialised(trainings: Any) -> None:
    patterns = ["model.embed_tokens.*", "model.layers.1.*"]
    gang = trainings.run("frozen", steps=3, parallelism={"pipeline": 2}, freeze=patterns)
    assert gang.failures == []
    asset = gang.of("output")[0]["asset"]
    after = load_file(folder_of(asset["uri"]) / "model.safetensors")
    _, architecture = load_model(folder_of(asset["uri"]))
    from quarterdeck_workers.models.hugging_face import to_hugging_face

    before = to_hugging_face(build_model(architecture, seed=1234).state_dict(), architecture)
    same = {name for name in after if torch.equal(after[name], before[name])}
    frozen = {n for n in after if "embed_tokens" in n or n.startswith("model.layers.1.")}
    assert same == frozen
    resumed = trainings.run(
        "thawed", steps=4, resume=gang.of("checkpoint")[-1]["manifest"], freeze=patterns
    )
    assert resumed.failures == []


def test_mixture_reports_the_loss_of_each_domain(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, domains=("first", "second"))
    order = workshop.order("mixed", steps=3, parallelism={"data": 2, "zero": 2})
    gang = run_gang(order, 2, tmp_path / "work")
    assert gang.failures == []
    for metrics in (m["metrics"] for m in gang.of("step")):
        parts = (metrics["loss/first"], metrics["loss/second"])
        assert min(parts) < metrics["loss"] < max(parts)


def test_divergence_is_the_recipes_fault(trainings: Any) -> None:
    gang = trainings.run("diverged", learning_rate=1e30, clip=0, warmup_steps=0)
    [failure] = gang.of("failure")
    assert failure["blame"] == "user_code"
    assert "lower training.learning_rate" in failure["message"]
    assert not gang.of("output")


def test_data_that_does_not_last_is_refused(trainings: Any) -> None:
    order = trainings.workshop.order("short", steps=4000)
    order.spec["datasets"] = [{"name": "code", "passes": 1}]
    gang = run_gang(order, 1, trainings.folder / "short")
    [failure] = gang.of("failure")
    assert failure["blame"] == "data"
    assert "need 64000 samples" in failure["message"]


def test_another_tokenizer_than_the_datas_is_refused(trainings: Any) -> None:
    order = trainings.workshop.order("foreign")
    other = trainings.folder / "artifacts/other"
    save_tokenizer(train_bpe(["another text"], 300).tokenizer, other)
    order.inputs["tokenizer"] = [
        ResolvedAsset(kind="tokenizer", name="other", version=1, digest="", uri=other.as_uri())
    ]
    gang = run_gang(order, 1, trainings.folder / "foreign")
    [failure] = gang.of("failure")
    assert failure["blame"] == "data"
    assert "not made by tokenizer other" in failure["message"]


def test_impossible_split_names_the_field(trainings: Any) -> None:
    architecture = LLAMA | {"intermediate_size": 127}
    gang = trainings.run("odd", architecture=architecture, parallelism={"tensor": 2})
    assert "tensor: 2 does not divide intermediate_size 127" in gang.failures[0]
