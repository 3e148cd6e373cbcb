"""A database whose machine loses its power never says so: who asks it notices by himself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from quarterdeck.store.database import LOST_AFTER_S, make_engine
from tests.integration.machines import other_machine as machines

RELAY = Path(machines.__file__).with_name("relay.py")


def test_a_query_to_a_lost_machine_fails_in_time(postgres_url: str) -> None:
    url = make_url(postgres_url)
    socket = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
    with machines.other_machine(RELAY, socket) as far:
        there = url.set(host=far.address, port=machines.PORT, query={})
        engine = make_engine(there.render_as_string(hide_password=False), pool_size=1)
        try:
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT 1")) == 1
                far.cut()
                begun = time.monotonic()
                with pytest.raises(OperationalError):
                    connection.scalar(text("SELECT 1"))
            assert time.monotonic() - begun < LOST_AFTER_S + 5
        finally:
            engine.dispose()
