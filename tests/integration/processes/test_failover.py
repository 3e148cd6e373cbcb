"""The platform's processes while its database fails over: they wait, and nothing is lost."""

from __future__ import annotations

import threading
import time

from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from tests.integration.processes.conftest import Machine
from tests.postgres_pair import pair

AWAY_SECONDS = 5.0
"""From the primary's end until the standby is promoted."""


def test_a_failover_is_waited_for(machine: Machine) -> None:
    with pair() as servers:
        machine.more["QUARTERDECK_DATABASE_URL"] = servers.url
        started = machine.run(*machine.up_arguments, "--detach")
        assert started.returncode == 0, started.stderr
        try:
            api = f"http://127.0.0.1:{machine.port}"
            with Client(api, read_key(machine.home.admin_key), retry_seconds=60) as client:
                before = client.submit({"kind": "command", "name": "before", "command": "true"})
                servers.lose_primary()
                promoted = threading.Timer(AWAY_SECONDS, servers.promote)
                promoted.start()
                begun = time.monotonic()
                during = client.submit({"kind": "command", "name": "during", "command": "true"})
                took = time.monotonic() - begun
                promoted.join()
                assert took >= AWAY_SECONDS, "it was accepted where nothing could be written"
                assert [one.name for one in client.jobs.list()] == ["during", "before"]
                # The controller decides again: it queues them, and says that there is no machine.
                until = time.monotonic() + 60
                for job in (before, during):
                    while (found := client.jobs.get(job.id)).reason in ("Submitted", "Queued"):
                        assert time.monotonic() < until, "the controller did not come back"
                        time.sleep(0.2)
                    assert found.phase == "queued", found
        finally:
            down = machine.run("down")
        assert (down.returncode, down.stdout) == (0, "stopped\n"), down.stderr
