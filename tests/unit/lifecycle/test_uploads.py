"""Which uploads may go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quarterdeck.lifecycle.uploads import KeptUpload, served

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 86400.0


@pytest.mark.parametrize(
    ("touched", "live", "ended", "keep", "goes"),
    [
        (2, False, None, 14, True),  # no job came
        (0.9, False, None, 14, False),
        (30, True, None, 14, False),
        (30, True, 20, 14, False),  # one of its jobs has ended, another has not
        (30, False, 15, 14, True),
        (30, False, 13, 14, False),
        (0.5, False, 15, 14, False),  # somebody is about to submit it again
        (900, False, 800, None, False),
        (2, False, None, None, True),
    ],
)
def test_what_nobody_needs_goes(
    touched: float, live: bool, ended: float | None, keep: float | None, goes: bool
) -> None:
    def ago(days: float) -> datetime:
        return NOW - timedelta(days=days)

    upload = KeptUpload(
        "default", "0" * 64, ago(touched), live, None if ended is None else ago(ended)
    )
    assert served(upload, None if keep is None else keep * DAY, NOW) is goes
