from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from quarterdeck_workers.agent import stop_ray

sys.path.insert(0, str(Path(__file__).parent))
from worker_recorder import Recorder

START = """
import sys
from pathlib import Path
from quarterdeck_workers.agent import AgentSettings, main
if sys.argv[6] != "0":  # devices that Ray hands out by number; nothing opens them
    sys.modules["quarterdeck_workers.agent.main"]._gpu_count = lambda: int(sys.argv[6])
home = Path(sys.argv[1])
sys.exit(main(AgentSettings(
    url=sys.argv[2], cluster="test", key_path=home / "key", home=home, slots=int(sys.argv[3]),
    node_ip=sys.argv[4], join=sys.argv[5] == "join", accelerator=sys.argv[7], beat_seconds=0.5,
    poll_seconds=2.0, object_store_bytes=80_000_000,
)))
"""


class Machine:
    """One machine's agent in its own process, with a home of its own."""

    def __init__(
        self, home: Path, url: str, slots: int, address: str, join: bool = False,
        within: Sequence[str] = (), devices: int = 0, accelerator: str = "cpu",
    ) -> None:  # fmt: skip
        self.home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = home / "key"
        key.write_text("qd_test")
        key.chmod(0o600)
        self._command = [
            *within, sys.executable, "-c", START, str(home), url, str(slots), address,
            "join" if join else "lead", str(devices), accelerator,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "QUARTERDECK_HOME": str(self.home)}
        with (self.home / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> str:
        return (self.home / "agent.log").read_text(errors="replace")

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    def close(self) -> None:
        if self.agent.poll() is None:
            self.agent.send_signal(signal.SIGTERM)
            try:
                self.agent.wait(15)
            except subprocess.TimeoutExpired:
                self.kill_agent()
        stop_ray(self.home)


def marked(home: Path) -> list[tuple[int, str]]:
    """Pid and command line of the processes that carry the home's mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("QUARTERDECK_RAY") == str(home):
                found.append((process.pid, " ".join(process.cmdline())))
    return found


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="session")
def machine(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One real Ray with 8 slots and its agent, for all tests of this folder."""
    machine = Machine(tmp_path_factory.mktemp("m"), recorder.url, 8, "127.0.0.2")
    try:
        recorder.wait(lambda: recorder.nodes or machine.agent.poll() is not None, 90)
        assert machine.agent.poll() is None, machine.log()
        yield machine
    finally:
        machine.close()
    assert marked(machine.home) == []
