"""Properties of the decoder itself."""

from __future__ import annotations

import pytest
import torch

from quarterdeck.planner.parameters import count_parameters
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.presets import load_preset, preset_names
from quarterdeck_workers.models.initialisation import build_model, initialise
from quarterdeck_workers.models.rotary import Rotary

TINY = Architecture(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
)  # fmt: skip
VOCABULARY = 50
BUILDABLE = [
    name
    for name in preset_names()
    if load_preset(name).moe is None and load_preset(name).latent_attention is None
]


@pytest.mark.parametrize("name", BUILDABLE)
def test_built_modules_have_the_planned_parameters(name: str) -> None:
    architecture = load_preset(name)
    size = architecture.vocab_size or 8192
    built = build_model(architecture, size, device="meta")
    planned = count_parameters(architecture, size)
    assert sum(parameter.numel() for parameter in built.parameters()) == planned.total
    layers = sum(p.numel() for n, p in built.named_parameters() if ".attention." in n)
    assert layers == planned.attention


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3"])
def test_what_can_only_be_planned_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="planned but not trained"):
        build_model(load_preset(name), device="meta")


def test_no_position_sees_the_future() -> None:
    model = build_model(TINY, VOCABULARY, seed=0)
    first = torch.arange(20).unsqueeze(0)
    second = first.clone()
    second[0, 12:] = 49
    with torch.no_grad():
        before, after = model(first), model(second)
    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-6)
    assert (before[:, 12:] - after[:, 12:]).abs().max() > 0.1


@pytest.mark.parametrize(
    "scaling",
    [
        (),
        (("factor", 4.0), ("rope_type", "linear")),
        (
            ("factor", 8.0), ("high_freq_factor", 4.0), ("low_freq_factor", 1.0),
            ("original_max_position_embeddings", 16), ("rope_type", "llama3"),
        ),
    ],
)  # fmt: skip
def test_rotary_scores_depend_on_distance_only(scaling: tuple[tuple[str, float], ...]) -> None:
    rotary = Rotary(16, 10_000.0, scaling)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(16, generator=generator) for _ in range(2))
    length = 40
    turned_query, turned_key = rotary.apply(
        query.expand(1, 1, length, 16), key.expand(1, 1, length, 16)
    )
    scores = turned_query[0, 0] @ turned_key[0, 0].T
    for distance in (-7, 0, 3, 11):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)
    assert scores[0].std() > 0.1


def test_rotary_tables_made_in_inference_can_train() -> None:
    odd = TINY.model_copy(update={"rope_theta": 4242.0})
    model = build_model(odd, VOCABULARY, seed=0)
    ids = torch.arange(8).unsqueeze(0)
    with torch.inference_mode():
        model(ids)
    model(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_first_values_depend_on_seed_and_name_only() -> None:
    name, shape = "layers.1.attention.q.weight", (32, 32)
    value = initialise(name, shape, TINY, 1)
    assert torch.equal(value, dict(build_model(TINY, VOCABULARY, seed=1).named_parameters())[name])
    assert not torch.equal(value, initialise(name, shape, TINY, 2))
    assert not torch.equal(value, initialise("layers.0.attention.q.weight", shape, TINY, 1))
    assert abs(value.std().item() - 0.2) < 0.02
    residual = initialise("layers.1.attention.o.weight", shape, TINY, 1)
    assert abs(residual.std().item() - 0.1) < 0.01


def test_parts_in_a_row_are_the_model() -> None:
    model = build_model(TINY, VOCABULARY, seed=0)
    ids = torch.arange(10).unsqueeze(0)
    value = model.embedding(ids)
    for part in (*model.layers, model.norm, model.head):
        value = part(value)
    assert torch.equal(value, model(ids))


def test_halved_projections_add_up_to_the_whole() -> None:
    """What tensor parallelism does: rows of q, k, v and columns of o on each of two ranks."""
    attention = build_model(TINY, VOCABULARY, seed=0).layers[0].attention
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    total = torch.zeros_like(hidden)
    for half in range(2):
        part = build_model(TINY, VOCABULARY, seed=0).layers[0].attention
        for name in ("q", "k", "v"):
            rows = getattr(part, name).weight.chunk(2, dim=0)[half]
            setattr(part, name, torch.nn.Linear(32, rows.shape[0], bias=False))
            getattr(part, name).weight.data = rows.clone()
        columns = part.o.weight.chunk(2, dim=1)[half]
        part.o = torch.nn.Linear(columns.shape[1], 32, bias=False)
        part.o.weight.data = columns.clone()
        total += part(hidden)
    torch.testing.assert_close(total, attention(hidden), rtol=0, atol=1e-5)


def test_more_positions_than_learned_are_refused() -> None:
    gpt = TINY.model_copy(update={"position_embedding": "learned", "max_position_embeddings": 8})
    with pytest.raises(ValueError, match="max_position_embeddings 8"):
        build_model(gpt, VOCABULARY, seed=0)(torch.zeros(1, 9, dtype=torch.long))


def test_an_unknown_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is not set"):
        build_model(TINY)
