"""Start compose.yaml as a new user would, run a job through it, take the api away, clean up.

    make compose-test

Builds images that are missing. A project, ports and a home of its own: what else runs in the same
daemon is left alone. Ends with status 0, or says which step failed and shows the containers' last
lines; containers, networks and volumes are removed either way.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from images import check_docker, image_name, output  # noqa: E402

UP_S, JOB_S = 300, 120
TICKS = 30
"""How many seconds the job works during which the api is away."""
COUNTING = f"for i in $(seq {TICKS}); do echo tick $i; sleep 1; done"


class Failed(Exception):
    """A step did not do what it should; the message says which and how."""


class Trial:
    """One project of `docker compose`, with a home for the command line on this side."""

    def __init__(self, home: Path) -> None:
        self.project = f"quarterdeck-test-{os.getpid()}"
        self.ports = free_ports(2)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.gateway = f"http://127.0.0.1:{self.ports[1]}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("QUARTERDECK_")}
        self.environment = {
            **kept,
            "QUARTERDECK_API_PORT": str(self.ports[0]),
            "QUARTERDECK_GATEWAY_PORT": str(self.ports[1]),
        }
        self.home = home

    def compose(self, *arguments: str, seconds: float = 120, given: str | None = None) -> str:
        """Run `docker compose`; what it prints. Raises Failed."""
        command = ["docker", "compose", "--project-name", self.project, "--progress", "quiet"]
        files = ["--project-directory", str(ROOT), "--file", str(ROOT / "compose.yaml")]
        return self._run([*command, *files, *arguments], self.environment, seconds, given)

    def quarterdeck(self, *arguments: str, seconds: float = 60, given: str | None = None) -> str:
        """Run the command line of this tree against the published api. Raises Failed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("QUARTERDECK_")}
        environment = {**kept, "QUARTERDECK_HOME": str(self.home)}
        command = [sys.executable, "-m", "quarterdeck.processes.main", *arguments]
        return self._run(command, environment, seconds, given)

    def _run(
        self, command: list[str], environment: dict[str, str], seconds: float, given: str | None
    ) -> str:
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds,
                check=False, input=given if given is not None else "",
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(command)}: not done after {seconds:.0f} s") from error
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise Failed(f"{' '.join(command)}: status {done.returncode}\n{said[-3000:]}")
        return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def expect(truth: bool, what: str) -> None:
    """Raise Failed unless it is so."""
    if not truth:
        raise Failed(what)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Tell what is done, and afterwards how long it took."""
    print(f"compose-test: {what}", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(": failed", flush=True)
        raise
    print(f": {time.monotonic() - began:.1f} s", flush=True)


def log_in(trial: Trial) -> str:
    """Take the admin key as the page says; the key."""
    key = trial.compose("exec", "-T", "api", "cat", "/var/lib/quarterdeck/keys/admin")
    trial.quarterdeck("login", trial.url, given=key)
    return key.strip()


def run_example(trial: Trial) -> None:
    """The example on two ranks, and what it wrote."""
    trial.quarterdeck("apply", "-f", str(ROOT / "examples" / "command.yaml"))
    trial.quarterdeck("wait", "job/hello", "--timeout", f"{JOB_S}s", seconds=JOB_S + 30)
    logs = trial.quarterdeck("logs", "job/hello")
    for rank in range(2):
        expect(f"rank {rank} of 2" in logs, f"the log lacks rank {rank}'s line:\n{logs}")


def survive_the_api(trial: Trial) -> None:
    """A job goes on, and loses none of its lines, while the api is killed and away."""
    submit = ("submit", "--detach", "--no-workdir", "--name", "counting")
    trial.quarterdeck(*submit, "--", "bash", "-c", COUNTING)
    trial.quarterdeck("wait", "job/counting", "--until", "running", "--timeout", f"{JOB_S}s")
    trial.compose("kill", "--signal", "KILL", "api")
    time.sleep(5)
    trial.compose("up", "--detach", "--wait", "--no-recreate", "api", seconds=UP_S)
    trial.quarterdeck("wait", "job/counting", "--timeout", f"{JOB_S}s", seconds=JOB_S + 30)
    logs = trial.quarterdeck("logs", "job/counting")
    found = [line.rpartition("tick ")[2] for line in logs.splitlines() if "tick " in line]
    wanted = [str(number) for number in range(1, TICKS + 1)]
    expect(found == wanted, f"ticks in the log: {' '.join(found)}")
    job = json.loads(trial.quarterdeck("describe", "job/counting", "-o", "json"))
    expect(job["attempts"] == 1, f"{job['attempts']} attempts, not one")


def survive_the_worker(trial: Trial) -> None:
    """A new process in the worker's container, with the home of the old one, takes jobs."""
    trial.compose("restart", "worker")
    trial.compose("up", "--detach", "--wait", "--no-recreate", "worker", seconds=UP_S)
    submit = ("submit", "--no-workdir", "--name", "afterwards")
    logs = trial.quarterdeck(*submit, "--", "echo", "still here", seconds=JOB_S)
    expect("still here" in logs, f"the log lacks the job's line:\n{logs}")


def ask_the_gateway(trial: Trial, key: str) -> None:
    """The gateway knows the key that the api made."""
    request = Request(f"{trial.gateway}/v1/models", headers={"authorization": f"Bearer {key}"})
    with urlopen(request, timeout=10) as answer:
        models = json.load(answer)
    expect(models["object"] == "list", f"/v1/models answers {models}")


def back_up_and_restore(trial: Trial) -> None:
    """pg_dump of the image copes with the server, and what came after the backup is gone."""
    said = trial.compose("exec", "-T", "api", "quarterdeck", "db", "backup")
    expect("backups/quarterdeck-" in said, f"db backup says {said!r}")
    file = said.rpartition(":")[0].strip()  # FILE: 123,456 bytes
    submit = ("submit", "--no-workdir", "--name", "forgotten")
    trial.quarterdeck(*submit, "--", "true", seconds=JOB_S)
    trial.compose("stop", "api", "controller")
    trial.compose("run", "--rm", "-T", "api", "db", "restore", file, seconds=JOB_S)
    trial.compose("up", "--detach", "--wait", "--no-recreate", seconds=UP_S)
    jobs = trial.quarterdeck("jobs", "-o", "name").split()
    expect("job/hello" in jobs and "job/forgotten" not in jobs, f"after the restore: {jobs}")
    again = ("submit", "--no-workdir", "--name", "after-restore")
    logs = trial.quarterdeck(*again, "--", "echo", "goes on", seconds=JOB_S)
    expect("goes on" in logs, f"the log lacks the job's line:\n{logs}")


def search_secrets(trial: Trial, key: str) -> None:
    """Neither password nor keys in what the daemon knows of the containers, nor in their logs."""
    url = trial.compose("exec", "-T", "api", "cat", "/srv/quarterdeck/database/url")
    password = urlsplit(url.strip()).password or ""
    expect(len(password) >= 32, "the database's password is shorter than 32 characters")
    containers = trial.compose("ps", "--all", "--quiet").split()
    known = output("docker", "inspect", *containers).stdout
    logs = trial.compose("logs", "--no-color")
    for name, secret in (("password", password), ("admin key", key)):
        expect(secret not in known, f"`docker inspect` shows the {name}")
        expect(secret not in logs, f"a container's log shows the {name}")


def build_missing() -> None:
    """Build the images that the daemon does not have."""
    for image in ("control", "worker"):
        name = image_name(image, os.environ)
        if output("docker", "image", "inspect", name).returncode:
            subprocess.run([sys.executable, str(ROOT / "tools" / "images.py"), image], check=True)


def follow(trial: Trial) -> None:
    """Every step, in the order of the page."""
    with step("docker compose up --wait"):
        up = ("up", "--detach", "--wait", "--wait-timeout", str(UP_S))
        trial.compose(*up, seconds=UP_S + 60)
    with step("login with the admin key"):
        key = log_in(trial)
    with step("examples/command.yaml through the published api"):
        run_example(trial)
    with step("the gateway answers"):
        ask_the_gateway(trial, key)
    with step("the api is killed and comes back while a job runs"):
        survive_the_api(trial)
    with step("the worker is restarted and takes another job"):
        survive_the_worker(trial)
    with step("db backup, db restore, another job"):
        back_up_and_restore(trial)
    with step("doctor"):
        trial.quarterdeck("doctor")
    with step("no secret in containers' settings and logs"):
        search_secrets(trial, key)


def stop(number: int, frame: FrameType | None) -> None:
    raise Failed(f"ended by signal {number}")


def main() -> int:
    check_docker("compose", "buildx")
    build_missing()
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="quarterdeck-compose-") as folder:
        trial = Trial(Path(folder))
        try:
            follow(trial)
        except (Failed, OSError) as error:
            print(f"compose-test: {error}", file=sys.stderr)
            for arguments in (("ps", "--all"), ("logs", "--no-color", "--tail", "40")):
                try:
                    print(trial.compose(*arguments), file=sys.stderr)
                except Failed as second:
                    print(second, file=sys.stderr)
            return 1
        finally:
            with step("docker compose down -v"):
                trial.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
    print("compose-test: all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
