"""Golden operation counts."""

from __future__ import annotations

import pytest

from quarterdeck.planner.flops import (
    flops_per_token,
    matrix_parameters,
    megatron_flops,
    training_flops_per_token,
)
from quarterdeck.planner.parameters import count_parameters
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.presets import load_preset

# Narayanan et al. 2021, table 1: billions of parameters, heads, hidden size, layers, GPUs, batch,
# TFLOP/s per GPU, petaFLOP/s in all. Vocabulary 51,200, sequence 2,048.
SC21 = [
    (1.7, 24, 2304, 24, 32, 512, 137, 4.4),
    (3.6, 32, 3072, 30, 64, 512, 138, 8.8),
    (7.5, 32, 4096, 36, 128, 512, 142, 18.2),
    (18.4, 48, 6144, 40, 256, 1024, 135, 34.6),
    (39.1, 64, 8192, 48, 512, 1536, 138, 70.8),
    (76.1, 80, 10240, 60, 1024, 1792, 140, 143.8),
    (145.6, 96, 12288, 80, 1536, 2304, 148, 227.1),
    (310.1, 128, 16384, 96, 1920, 2160, 155, 297.4),
    (529.6, 128, 20480, 105, 2520, 2520, 163, 410.2),
    (1008.0, 160, 25600, 128, 3072, 3072, 163, 502.0),
]


def _megatron(heads: int, hidden: int, layers: int) -> Architecture:
    return load_preset("gpt2").model_copy(
        update={
            "vocab_size": 51200,
            "max_position_embeddings": 2048,
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
    )


def test_flops_of_a_7b_sequence() -> None:
    per_sequence = 2048 * flops_per_token(6.649e9, 32, 4096, 2048)
    assert f"{per_sequence:.2e}" == "8.83e+13"


def test_terms_of_flops_per_token() -> None:
    n, layers, hidden, sequence = 1e9, 10, 100, 50
    attention = layers * hidden * sequence
    base = flops_per_token(n, layers, hidden, sequence)
    assert base == 6 * n + 12 * attention
    assert flops_per_token(n, layers, hidden, sequence, causal=True) == 6 * n + 6 * attention
    assert flops_per_token(n, 0, 0, 0, recompute="full") == 6 * n + 2 * n
    assert flops_per_token(n, 0, 0, 0, trainable="lora") == 4 * n


@pytest.mark.parametrize("row", SC21, ids=lambda row: f"{row[0]}B")
def test_megatron_sc21_model_sizes(row: tuple[float, int, int, int, int, int, int, float]) -> None:
    billions, heads, hidden, layers, gpus, batch, teraflops, petaflops = row
    a = _megatron(heads, hidden, layers)
    count = count_parameters(a)
    assert count.total / 1e9 == pytest.approx(billions, rel=0.02, abs=0.05)
    # Their F is our full recomputation with the head's own recomputation left out.
    ours = (
        batch * 2048 * flops_per_token(matrix_parameters(a), layers, hidden, 2048, recompute="full")
    )
    ours -= 2 * batch * 2048 * 51200 * hidden
    theirs = megatron_flops(batch, 2048, layers, hidden, 51200)
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert gpus * teraflops / 1000 == pytest.approx(petaflops, rel=0.01)


def test_a_tied_head_costs_as_much_as_a_separate_one() -> None:
    untied = load_preset("llama-tiny")
    tied = untied.model_copy(update={"tie_word_embeddings": True})
    assert matrix_parameters(untied, 4096) == matrix_parameters(tied, 4096)
    assert count_parameters(untied, 4096).total > count_parameters(tied, 4096).total


def test_architecture_flops_are_the_formula_of_its_matrices() -> None:
    a = load_preset("llama-3-8b")
    formula = flops_per_token(matrix_parameters(a), 32, 4096, 8192, causal=True)
    assert training_flops_per_token(a, 8192) == formula
    again = flops_per_token(matrix_parameters(a), 32, 4096, 8192, causal=True, recompute="full")
    assert training_flops_per_token(a, 8192, recompute="full") == again
    moe = training_flops_per_token(load_preset("mixtral-8x7b"), 0)
    assert moe == pytest.approx(6 * (12_879_925_248 - 32000 * 4096))
