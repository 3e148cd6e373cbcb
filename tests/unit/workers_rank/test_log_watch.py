"""Log policies at the source: what matches, what it may cost, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quarterdeck.specs.kinds import CommandSpec
from quarterdeck.specs.log_policies import BUILT_IN, LogPolicy, in_force, matcher
from quarterdeck_workers.rank.log_watch import LINES_PER_SECOND, LogWatch

KNOWN = {
    "ecc": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "xid": "[ 12.3] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.",
    "disk-full": "OSError: [Errno 28] No space left on device: 'x'",
    "nccl": "torch.distributed.DistBackendError: NCCL error, ncclRemoteError: A call failed",
    "cuda-oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
    "host-oom": "[99.1] Out of memory: Killed process 4242 (python)",
}
HARMLESS = (
    "step 12 loss 3.1",
    "NVRM: Xid (PCI:0000:3b:00): 13, Graphics Exception",
    "NCCL INFO comm 0x1 rank 0 nranks 8 - Init COMPLETE",
    "GPU memory 3.2 GiB",
)


def test_every_built_in_policy_knows_its_line_and_no_harmless_one() -> None:
    assert set(KNOWN) == {policy.name for policy in BUILT_IN}
    for name, line in KNOWN.items():
        (found,) = LogWatch(in_force()).feed(line.encode() + b"\n", 1.0)
        assert (found.policy.name, found.line) == (name, line)
    for line in HARMLESS:
        assert LogWatch(in_force()).feed(line.encode() + b"\n", 1.0) == []


@given(cuts=st.lists(st.integers(1, 40), max_size=20), noise=st.binary(max_size=30))
def test_a_line_is_found_however_it_is_cut(cuts: list[int], noise: bytes) -> None:
    data = noise + b"\nbefore CUDA out of memory after\n" + noise
    watch, found = LogWatch(in_force()), []
    for cut in [*cuts, len(data)]:
        found += watch.feed(data[:cut], 1.0)
        data = data[cut:]
    found += watch.close(1.0)
    assert [each.line for each in found] == ["before CUDA out of memory after"]


def test_a_flood_is_bounded_and_a_policy_rests() -> None:
    watch = LogWatch(in_force())
    assert len(watch.feed(b"CUDA out of memory\n" * 1000, 1.0)) == 3
    assert len(watch.feed(b"CUDA out of memory\n", 61.0)) == 1, "a later minute is told again"
    late = b"x\n" * LINES_PER_SECOND + b"No space left on device\n"
    assert watch.feed(late, 62.0) == []
    assert len(watch.feed(b"No space left on device\n", 63.0)) == 1
    unended = watch.feed(b"a" * 10_000_000, 64.0)
    assert unended == [] and len(watch._rest) < 10_000


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", ".*a.*a.*a.*b", r"(\w+\s?)*$x"])
def test_no_pattern_holds_up_a_node(pattern: str) -> None:
    matches = matcher(pattern)
    started = time.process_time()
    for _ in range(20):
        matches("a" * 1000)
    assert time.process_time() - started < 5.0, "exponential ones would take for ever"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "unclosed group"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"(\w{100}){100}", "size limit"),
        (".*", "matches every line"),
        ("", "at least 1"),
        ("a" * 501, "at most 500"),
    ],
)
def test_patterns_that_cannot_be_bounded_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        LogPolicy(name="p", pattern=pattern, verdict="retry")


def test_the_jobs_own_come_first_and_are_not_trusted() -> None:
    own = LogPolicy(name="cuda-oom", pattern="out of memory", verdict="retry")
    house = LogPolicy(name="fan", pattern="fan failure", verdict="exclude_node")
    chosen = {policy.name: policy for policy in in_force([own], [house, own])}
    assert (chosen["cuda-oom"].verdict, chosen["cuda-oom"].trusted) == ("retry", False)
    assert chosen["fan"].trusted and len(chosen) == len(BUILT_IN) + 1
    many = [own.model_dump() for _ in range(33)]
    with pytest.raises(ValidationError):
        CommandSpec(kind="command", name="x", command="true", log_policies=many)
