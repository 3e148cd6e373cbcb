from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.lifecycle.logs import LogBounds
from quarterdeck.processes.settings import read_settings


def bounds(**environment: str) -> LogBounds:
    return read_settings({"QUARTERDECK_HOME": "/x", **environment}, Path("/"), Path("/")).log_bounds


def test_bounds_on_logs_come_from_the_environment() -> None:
    assert bounds() == LogBounds()
    assert bounds(
        QUARTERDECK_LOGS_KEEP="7d",
        QUARTERDECK_LOGS_BYTES="10GiB",
        QUARTERDECK_LOGS_PROJECT_BYTES="1GiB",
        QUARTERDECK_LOGS_JOB_BYTES="none",
    ) == LogBounds(7 * 86400.0, 10 * 2**30, 2**30, None)


@pytest.mark.parametrize("text", ["soon", "0d", "-3d"])
def test_wrong_bounds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"QUARTERDECK_LOGS_KEEP: .*write none"):
        bounds(QUARTERDECK_LOGS_KEEP=text)
