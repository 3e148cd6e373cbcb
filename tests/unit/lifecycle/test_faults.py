"""What lines of output and failing machines decide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.faults import (
    CORDON_AFTER,
    NODE_FAILURE,
    RECENT_S,
    Fault,
    cordon_reason,
    exclusions,
    judge,
)
from quarterdeck.lifecycle.restarts import COUNTED, after_failure

ONE, TWO = ("one", "10.0.0.1"), ("two", "10.0.0.2")


def match(verdict: str, at: float = 1000.0, policy: str = "p") -> dict[str, Any]:
    return {"policy": policy, "verdict": verdict, "line": "words", "at": at, "node_id": "n"}


def test_verdicts() -> None:
    assert judge([match("ignore")], "user_code", 1000.0).excused == ""
    assert judge([match("retry")], "user_code", 1000.0).excused == "p"
    full = {**match("exclude_node"), "policy": "disk-full"}
    assert judge([full], "disk", 1000.0).blamed and not judge([full], "user_code", 1000.0).blamed
    assert judge([match("cancel_retries")], "memory", 1000.0).cancel == "log policy p: words"
    blamed = judge([match("exclude_node")], "user_code", 1000.0)
    assert (blamed.excused, len(blamed.blamed)) == ("p", 1)


def test_a_machine_that_failed_is_no_reason_to_give_up() -> None:
    for blame in ("node", "network", "disk"):
        assert judge([match("cancel_retries")], blame, 1000.0).cancel == ""
    both = judge([match("cancel_retries"), match("exclude_node", policy="ecc")], "memory", 1000.0)
    assert (both.cancel, both.excused) == ("", "ecc")


def test_an_old_line_did_not_end_the_attempt() -> None:
    judgement = judge([match("cancel_retries", at=0.0)], "memory", RECENT_S + 1)
    assert judgement.cancel == ""
    skewed = judge([match("cancel_retries", at=1030.0)], "memory", 1000.0)
    assert skewed.cancel, "a clock that runs ahead hides nothing"


@pytest.mark.parametrize("blame", sorted(COUNTED))
def test_an_excused_failure_uses_up_nothing_and_is_bounded(blame: str) -> None:
    choice = after_failure(blame, restarts_used=0, max_restarts=0, fruitless=1, excused="nccl")
    assert choice.restart and choice.restarts_used == 0 and "nccl" in choice.message
    assert not after_failure(
        blame, restarts_used=0, max_restarts=0, fruitless=10, excused="nccl"
    ).restart


def test_hardware_excludes_at_once_and_plain_failures_when_repeated() -> None:
    ecc = Fault(ONE, "job", "ecc", 2, 3, "uncorrectable ECC error")
    found = exclusions([ecc])
    assert found[ONE].hard and found[ONE].words == "ecc in attempt 2: uncorrectable ECC error"
    plain = [Fault(TWO, "job", NODE_FAILURE, epoch, 0, "did not start") for epoch in (1, 2)]
    assert exclusions(plain[:1]) == {}
    assert not exclusions(plain)[TWO].hard
    both = exclusions([*plain, Fault(TWO, "job", "xid", 3, 0, "fell off the bus")])
    assert both[TWO].hard and "xid" in both[TWO].words
    assert not exclusions([Fault(ONE, "job", "disk-full", 1)])[ONE].hard


@given(
    st.lists(
        st.builds(
            Fault,
            st.sampled_from([ONE, TWO]),
            st.sampled_from(["a", "b", "c", "d"]),
            st.sampled_from(["ecc", "disk-full", NODE_FAILURE]),
            st.integers(1, 9),
            trusted=st.booleans(),
        ),
        max_size=12,
    )
)
def test_a_host_is_closed_for_all_only_by_enough_owners_and_trusted_policies(
    faults: list[Fault],
) -> None:
    owners = {fault.owner_id for fault in faults if fault.trusted}
    assert bool(cordon_reason(faults)) == (len(owners) >= CORDON_AFTER)
    hosts = {fault.machine for fault in faults}
    assert set(exclusions(faults)) <= hosts
    assert exclusions(faults) == exclusions(list(reversed(faults)))
