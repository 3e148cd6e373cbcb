"""A replica whose machine loses its power never says so: the gateway notices by itself."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from quarterdeck.gateway.upstream import LOST_AFTER_S
from quarterdeck.specs.gateway_snapshot import EngineEndpoint
from tests.integration.gateway.gates import BODY, USAGE
from tests.integration.machines import other_machine as machines

ENGINE = Path(machines.__file__).with_name("silent_engine.py")


def test_a_request_on_a_lost_machine_is_answered_by_another(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    near = scripted("run-near", lambda number: [kit.whole(USAGE)])
    with (
        machines.other_machine(ENGINE) as far,
        gateways().client(timeout=30) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        url = f"http://{far.address}:{machines.PORT}"
        endpoint = EngineEndpoint(run_id="run-far", url=url, ready=True)
        api.publish(kit.route("chat", endpoint, near.endpoint()))
        kit.wait_until(lambda: "chat" in client.get("/v1/models").text, "not listed")
        # The second goes to the other one: the first is still under way.
        asked = [threads.submit(client.post, "/v1/completions", json=BODY) for _ in range(2)]
        assert far.said() == "asked"
        wait(asked, return_when="FIRST_COMPLETED")
        far.cut()
        begun = time.monotonic()
        answers = [each.result() for each in asked]
        assert time.monotonic() - begun < LOST_AFTER_S + 5
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.headers["x-quarterdeck-replica"] for answer in answers} == {"run-near"}
