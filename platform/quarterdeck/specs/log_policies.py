"""What known lines of a run's output mean for its next attempt.

A pattern is matched by pydantic's engine, whose time is linear in the line for every pattern it
takes: it refuses look-around, back references and patterns that grow too large, so that none of
them can hold up a node. Each line counts up to its first LONGEST_LINE characters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import SchemaError, SchemaValidator, core_schema

from quarterdeck.specs.base import Message, Name, Spec

LONGEST_LINE = 1000
MOST_OF_JOB = 32
MOST_OF_INSTALLATION = 64

Verdict = Literal["exclude_node", "cancel_retries", "retry", "ignore"]


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether `pattern` occurs in a line. Raises ValueError for one that is not taken."""
    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError as error:
        why = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
        raise ValueError(
            f"the pattern {pattern!r} is not taken: {why} (syntax of Rust's regex: no look-around, "
            "no back references)"
        ) from None
    return validator.isinstance_python


def _pattern(value: str) -> str:
    if matcher(value)(""):
        raise ValueError(f"the pattern {value!r} matches every line: name what must be in it")
    return value


Pattern = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_pattern)]


class LogPolicy(Spec):
    """A line that matches `pattern`, in the last minutes of an attempt that fails, decides on the
    next attempt.

    `exclude_node`: never again on the machine of the rank that wrote it; the failure uses up no
    restart. `cancel_retries`: there is no next attempt. `retry`: the failure uses up no restart.
    `ignore`: only the event tells of it; of the same name as another policy, it replaces that.
    """

    name: Name
    pattern: Pattern
    verdict: Verdict


class OrderedPolicy(Message):
    """A policy as a run is given it; `trusted` ones are not the job's own."""

    name: str
    pattern: str
    verdict: Verdict
    trusted: bool = True


BUILT_IN = (
    LogPolicy(
        name="ecc",
        pattern=r"(?i)uncorrectable (volatile )?ECC error|double[- ]bit ECC|uncorrectable DRAM",
        verdict="exclude_node",
    ),
    LogPolicy(
        name="xid",
        pattern=r"NVRM: Xid \([^)]*\): (48|63|64|74|79|92|94|95|119|120)\b"
        r"|GPU has fallen off the bus",
        verdict="exclude_node",
    ),
    LogPolicy(
        name="disk-full",
        pattern=r"No space left on device|Disk quota exceeded",
        verdict="exclude_node",
    ),
    LogPolicy(
        name="nccl",
        pattern=r"ncclSystemError|ncclRemoteError|ncclInternalError|unhandled system error, NCCL"
        r"|Watchdog caught collective operation timeout|NCCL communicator was aborted",
        verdict="retry",
    ),
    LogPolicy(
        name="cuda-oom",
        pattern=r"CUDA out of memory|CUDA error: out of memory|torch\.(cuda\.)?OutOfMemoryError",
        verdict="cancel_retries",
    ),
    LogPolicy(
        name="host-oom",
        pattern=r"Out of memory: Killed process|oom-kill:|[Cc]annot allocate memory"
        r"|can't allocate memory|^MemoryError",
        verdict="ignore",
    ),
)


def in_force(
    job: Sequence[LogPolicy] = (), installation: Sequence[LogPolicy] = ()
) -> list[OrderedPolicy]:
    """The policies of a run: the job's, the installation's, the built-in ones. Of one name the
    first counts, and of one line the first that matches."""
    chosen: dict[str, OrderedPolicy] = {}
    for trusted, policies in ((False, job), (True, installation), (True, BUILT_IN)):
        for policy in policies:
            ordered = OrderedPolicy(**policy.model_dump(), trusted=trusted)
            chosen.setdefault(policy.name, ordered)
    return list(chosen.values())
