"""The part of an accelerator that a replica takes: what may be written, and where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.accelerator_share import LEAST, WHOLE, parse_accelerator_share, thousandths
from quarterdeck.specs.kinds import ServiceSpec
from quarterdeck.specs.suggestions import DocumentError, parse_document


def service(share: object, **fields: Any) -> ServiceSpec:
    document = {
        "kind": "service", "name": "s", "model": "m", "resources": {"accelerator_share": share},
        **fields,
    }  # fmt: skip
    parsed = parse_document(document, "")
    assert isinstance(parsed, ServiceSpec)
    return parsed


@pytest.mark.parametrize(
    ("written", "count"),
    [("40%", 400), (0.4, 400), ("0.4", 400), ("33.3%", 333), ("1%", 10), (1, 1000), ("100%", 1000)],
)
def test_shares_are_counted_in_thousandths(written: object, count: int) -> None:
    share = service(written).resources.accelerator_share
    assert share == count / WHOLE and thousandths(share) == count


@given(st.integers(LEAST, WHOLE))
def test_every_step_is_exact(count: int) -> None:
    assert thousandths(parse_accelerator_share(f"{count / 10}%")) == count
    assert thousandths(parse_accelerator_share(count / WHOLE)) == count


def test_none_is_a_whole_one() -> None:
    assert service(None).resources.accelerator_share is None
    assert thousandths(None) == WHOLE


@pytest.mark.parametrize("written", [0, "0.5%", "33.33%", 1.5, "140%", -0.1, "half", True, "nan"])
def test_other_shares_are_refused_with_what_to_write(written: object) -> None:
    with pytest.raises(DocumentError) as refused:
        service(written)
    (error,) = refused.value.errors
    assert error.path == "resources.accelerator_share"
    assert repr(written) in error.message and "write" in error.message


def test_a_replica_of_several_accelerators_shares_none() -> None:
    with pytest.raises(DocumentError, match=r"resources.accelerator_share: 0.4 .* over 2: leave"):
        service("40%", engine="vllm", parallelism={"tensor": 2})


def test_a_job_shares_none() -> None:
    document = {
        "kind": "command", "name": "c", "command": "true",
        "resources": {"accelerator_share": "40%"},
    }  # fmt: skip
    with pytest.raises(DocumentError) as refused:
        parse_document(document, "")
    (error,) = refused.value.errors
    assert error.path == "resources.accelerator_share"
    assert "only replicas of a service" in error.message
