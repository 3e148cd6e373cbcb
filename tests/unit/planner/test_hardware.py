"""The hardware catalogue and its extension."""

from __future__ import annotations

import pytest

from quarterdeck.planner.hardware import builtin_catalogue, cpu_slot, parse_catalogue
from quarterdeck.planner.roofline import decode_step_seconds, ridge


@pytest.mark.parametrize(
    ("name", "memory", "bf16"),
    [
        ("A100-80G", 80e9, 312e12),
        ("H100", 80e9, 989.4e12),
        ("H200", 141e9, 989.4e12),
        ("L4", 24e9, 121e12),
        ("A10G", 24e9, 70e12),
    ],
)
def test_data_sheets(name: str, memory: float, bf16: float) -> None:
    found = builtin_catalogue().find(name)
    assert (found.memory, found.peak_of("bf16")) == (memory, bf16)


def test_every_entry_is_whole() -> None:
    for name in builtin_catalogue().names():
        entry = builtin_catalogue().find(name)
        assert entry.peak["fp32"] > 0
        assert entry.inter_host <= entry.intra_host <= entry.bandwidth


def test_aliases_and_case() -> None:
    catalogue = builtin_catalogue()
    assert catalogue.find("a100").name == "A100-80G"
    assert catalogue.find("NVIDIA-H200") is catalogue.find("h200")
    assert catalogue.find("NVIDIA H100 80GB HBM3").name == "H100"
    assert catalogue.find("CPU").name == "cpu"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*H100"):
        builtin_catalogue().find("H1000")
    with pytest.raises(ValueError, match="known: A100-80G, "):
        builtin_catalogue().find("?")


def test_a_second_file_changes_and_adds() -> None:
    extra = """
H100: {price_per_hour: 2.5}
Ascend-910B:
  memory: 64GB
  peak: {fp32: 94e12, bf16: 376e12}
  bandwidth: 1.6e12
  intra_host: 196e9
  inter_host: 25e9
  per_host: 8
  price_per_hour: 3
"""
    catalogue = parse_catalogue(extra)
    assert catalogue.find("H100").price_per_hour == 2.5
    assert catalogue.find("H100").memory == 80e9
    assert catalogue.find("ascend-910b").memory == 64e9
    assert builtin_catalogue().find("H100").price_per_hour != 2.5


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("X1: {memory: 1GB}", "peak"),
        ("H100: {memry: 1GB}", "memry"),
        ("H100: {memory: lots}", "is not an amount of memory"),
    ],
)
def test_a_wrong_second_file_is_refused(extra: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_catalogue(extra)


def test_declared_slots_share_their_host() -> None:
    core = builtin_catalogue().find("cpu")
    slot = cpu_slot(8 * 10**9, 2, 10)
    assert slot.memory == 8 * 10**8
    assert slot.per_host == 10
    assert slot.peak["fp32"] == pytest.approx(core.peak["fp32"] / 5)
    assert slot.price_per_hour == pytest.approx(core.price_per_hour / 5)
    with pytest.raises(ValueError, match="slots 0 must be positive"):
        cpu_slot(1, 1, 0)


def test_ridge_of_h100_and_decoding_8b() -> None:
    h100 = builtin_catalogue().find("H100")
    assert round(ridge(h100.peak_of("bf16"), h100.bandwidth)) == 295
    rate = 1 / decode_step_seconds(2 * 8_030_261_248, 0, h100.bandwidth)
    assert 208 < rate <= 209
