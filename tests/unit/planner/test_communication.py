"""Golden traffic, and which groups stay inside a host."""

from __future__ import annotations

import pytest

from quarterdeck.planner import communication
from quarterdeck.planner.parameters import lora_parameters


def test_data_parallel_traffic() -> None:
    assert [communication.data_parallel_elements(1.0, zero) for zero in range(4)] == [2, 2, 2, 3]
    assert communication.data_parallel_elements(1.0, 3, micro_batches=4) == 9


def test_tensor_and_pipeline_traffic() -> None:
    assert communication.tensor_parallel_elements(2, 2048, 4096, 1) == 0
    assert communication.tensor_parallel_elements(2, 2048, 4096, 4) == 6 * 2 * 2048 * 4096
    assert communication.pipeline_elements(2, 2048, 4096) == 2 * 2048 * 4096


def test_lora_gradient_traffic() -> None:
    share = communication.lora_gradient_share(lora_parameters(768, 768, 8), 768 * 768)
    assert round(100 * share, 3) == 2.083


def test_groups_in_hosts_of_the_reference_layout() -> None:
    """4 stages × tensor 4 × data 2 on hosts of 8: host i holds stage i whole."""
    assert communication.data_group_in_host(2, 4, 8)
    assert not communication.data_group_in_host(4, 4, 8)
    assert not communication.pipeline_in_host(2, 4, 4, 8)
    assert communication.pipeline_in_host(2, 2, 2, 8)


@pytest.mark.parametrize(("data", "tensor", "host"), [(2, 2, 8), (1, 8, 8), (3, 2, 8), (2, 4, 4)])
def test_data_groups_are_where_the_rank_map_puts_them(data: int, tensor: int, host: int) -> None:
    """rank = (pp·D + dp)·T + tp, hosts filled in order."""
    stages = 4
    spans = {
        (pp, tp): {((pp * data + dp) * tensor + tp) // host for dp in range(data)}
        for pp in range(stages)
        for tp in range(tensor)
    }
    inside = all(len(hosts) == 1 for hosts in spans.values())
    assert communication.data_group_in_host(data, tensor, host) == inside
