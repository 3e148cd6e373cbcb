from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.shares import shares


def test_the_example_of_the_module() -> None:
    demands = {"a": {"k": 900.0}, "b": {"k": 100.0}}
    assert shares(demands, "a") == {"k": pytest.approx(0.86)}
    assert shares(demands, "b") == {"k": pytest.approx(0.14)}


keys = st.sampled_from(["k1", "k2", "k3"])
reports = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.dictionaries(keys, st.floats(0, 1e9), max_size=3),
    min_size=1,
)


@given(reports)
def test_the_shares_of_a_key_add_up_to_one(demands: dict[str, dict[str, float]]) -> None:
    told = {gateway: shares(demands, gateway) for gateway in demands}
    for key in {key for demand in demands.values() for key in demand}:
        parts = [share[key] for share in told.values()]
        assert sum(parts) == pytest.approx(1.0)
        assert min(parts) >= 0.1 / len(demands) * 0.999
