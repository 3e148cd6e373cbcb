"""The tensor group's communication runs behind the backward pass's computation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RANK = Path(__file__).with_name("overlap_rank.py")
INPUT = "mm 48x64"
"""Gradients of all tokens' hidden vectors: 3 sequences of 16 tokens, 64 wide."""
WEIGHTS = {"feed_forward": "mm 64x64", "q": "mm 32x64", "k": "mm 16x64"}
"""This rank's half of 128 features, of 4 heads and of 2 key/value heads."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("overlap") / "rendezvous"
    processes = [
        subprocess.Popen(
            [sys.executable, RANK, str(rank), file], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output) for output in outputs]


def test_gradients_are_bit_for_bit_those_without_overlap(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert len(rank["same"]) == 8
        assert all(rank["same"].values()), rank["same"]


def blocks(events: list[str], start: str) -> list[list[str]]:
    """For each `start` collective that has work before its wait: what comes between."""
    wait = start.replace("start", "wait")
    found: list[list[str]] = []
    for number, event in enumerate(events):
        if event == start:
            end = events.index(wait, number)
            found.append(events[number + 1 : end])
    return found


def test_the_sum_is_started_before_the_weights_gradients(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        feed_forward, attention = blocks(rank["order"]["False"], "start all_reduce")
        assert feed_forward == [WEIGHTS["feed_forward"]] * 2
        assert attention == [WEIGHTS["q"], WEIGHTS["k"], WEIGHTS["k"]]


def test_sequence_parts_are_gathered_behind_the_inputs_gradient(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        events = rank["order"]["True"]
        gathered = [block for block in blocks(events, "start all_gather") if INPUT in block]
        assert [block.count(INPUT) for block in gathered] == [2, 3]
        assert all("start reduce_scatter" in block for block in gathered)
        feed_forward, attention = (
            [event for event in block if event.startswith("mm")]
            for block in blocks(events, "start reduce_scatter")
        )
        assert feed_forward == [WEIGHTS["feed_forward"]] * 2
        assert attention == [WEIGHTS["q"], WEIGHTS["k"], WEIGHTS["k"]]
