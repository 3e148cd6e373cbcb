"""Health checks of containers: an address that answers, a process that still goes round."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.processes.agent import own_address
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.health import FRESH_S, Pulse, ailment, main, pulse_file
from tests.integration.processes.conftest import Machine, free_port


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        well = self.path == "/readyz"
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(b"" if well else b"the database does not answer")

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_is_well_when_it_answers_with_success(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # never for one's own container
    assert ailment(f"{url}/readyz", {}, 0.0) is None
    said = ailment(f"{url}/other", {}, 0.0)
    assert said == f"{url}/other answers 503: the database does not answer"
    assert "does not answer" in (ailment("http://127.0.0.1:9/readyz", {}, 0.0) or "")


def test_a_pulse_that_stops_is_told(tmp_path: Path) -> None:
    environment = {"QUARTERDECK_HOME": str(tmp_path)}
    assert "not begun its work" in (ailment("agent", environment, time.time()) or "")
    pulse = Pulse(pulse_file(tmp_path, "agent"))
    pulse()
    now = time.time()
    assert ailment("agent", environment, now + FRESH_S - 1) is None
    said = ailment("agent", environment, now + FRESH_S + 2)
    assert said is not None and said.startswith("the agent has shown no sign of life for 6")
    Pulse(pulse_file(tmp_path, "agent"))  # another process: nothing is known of it yet
    assert "not begun its work" in (ailment("agent", environment, now) or "")


def test_a_pulse_without_a_folder_ends_nothing(tmp_path: Path) -> None:
    Pulse(tmp_path / "gone" / "agent.pulse")()


def test_the_exit_code_tells(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [main([f"{url}/readyz"]), main([f"{url}/other"]), main([])]
    assert codes == [0, 1, 2]
    assert capsys.readouterr().out.splitlines()[0] == "well"


def test_a_controller_that_is_frozen_does_not_answer(machine: Machine) -> None:
    assert machine.run("db", "upgrade").returncode == 0
    port = free_port()
    url = f"http://127.0.0.1:{port}/readyz"
    controller = machine.start("controller", "--health-port", str(port))
    try:
        until = time.monotonic() + 60
        while ailment(url, {}, 0.0) is not None and time.monotonic() < until:
            time.sleep(0.1)
        assert ailment(url, {}, 0.0) is None
        os.kill(controller.pid, signal.SIGSTOP)
        assert "does not answer" in (ailment(url, {}, 0.0) or "")
    finally:
        os.kill(controller.pid, signal.SIGCONT)
        controller.terminate()
        controller.communicate(timeout=30)


def test_a_machine_finds_its_address_towards_the_api() -> None:
    assert own_address("http://127.0.0.1:8080") == "127.0.0.1"
    for nowhere in ("http://nobody.invalid:8080", "not an address", "http://h:99999"):
        with pytest.raises(ProcessFailed, match=r"--node-ip auto: no way .* give this machine's"):
            own_address(nowhere)
