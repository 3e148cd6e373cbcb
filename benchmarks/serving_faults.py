"""Does a request fail while a service's parts are killed, stopped, rolled and lied to?

Two gateways, a service of engines that misbehave when told to (`benchmarks.naughty_engine`), and
clients that retry once, at the other gateway. Faults at random: SIGKILL and SIGSTOP of an engine,
5xx, garbage, hang-ups and trickles of one, SIGKILL of a gateway; and in their time two rollouts,
the way back from one, and the api stopped for a minute, in which nothing is replaced. A fault of an
engine comes only where two others are whole, and the next kill of a gateway only when no request
that fled from the last one can still be asking: what happens when all are dead at once needs no
measuring.

    python -m benchmarks.serving_faults --quick      # a minute
    python -m benchmarks.serving_faults              # 20 minutes

Exit code 1 when a request that had not begun failed after its one retry, a stream ended without a
word, or more than 1 % were refused.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.harness import report
from benchmarks.installation import Installation, Shape, installation
from benchmarks.serving_load import FIRST_BYTE_SECONDS, Load
from quarterdeck.client import QuarterdeckError
from quarterdeck.client.config import read_key
from quarterdeck.processes import chaos
from quarterdeck.processes.chaos_targets import Target, targets

ENGINE = Path(__file__).with_name("naughty_engine.py")
MOODS = ("5xx", "garbage", "close", "trickle")
KINDS = {"kill": 4, "stop": 2, "gateway": 2, **dict.fromkeys(MOODS, 1)}
HELD_SECONDS = 20.0
START_SECONDS = 10.0
MOOD_SECONDS = 8.0
REFUSED_SHARE = 0.01


def service(mood: Path, replicas: int, revision: int) -> dict:
    """The document; `revision` changes what runs."""
    command = f"{sys.executable} {ENGINE} --host {{host}} --port {{port}} --mood {mood}"
    return {
        "kind": "service", "name": "echo", "model": f"file://{mood.parent}", "engine": "command",
        "command": command, "replicas": replicas, "env": {"REVISION": str(revision)},
    }  # fmt: skip


class Trouble:
    """Makes faults until it is told to stop."""

    def __init__(self, platform: Installation, mood: Path, every: float, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._platform = platform
        self._mood = mood
        self._every = every
        self._hurt_at: list[float] = []
        self._gateway_at = -math.inf
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _work(self) -> None:
        while not self._over.wait(self._every * self._random.uniform(0.5, 1.5)):
            kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
            if self._one(kind):
                self.counts[kind] += 1
                print(f"{time.strftime('%H:%M:%S')} {kind}", file=sys.stderr, flush=True)

    def _one(self, kind: str) -> bool:
        if kind != "gateway" and self._whole() < 3:
            return False
        if kind == "stop" or kind in MOODS:  # the killed are not counted as started
            self._hurt_at.append(time.monotonic())
        if kind in MOODS:
            told = {"port": self._port(), "mood": kind, "until": time.time() + MOOD_SECONDS}
            self._mood.write_text(json.dumps(told))
            return True
        found = [target for target in targets(self._platform.home) if self._hit(target, kind)]
        if not found:
            return False
        target = self._random.choice(found)
        if kind == "gateway":
            return self._kill_gateway(target)
        if kind == "stop":
            threading.Thread(target=chaos.hold, args=(target, HELD_SECONDS), daemon=True).start()
            return True
        return chaos.strike(target, signal.SIGKILL)

    def _kill_gateway(self, target: Target) -> bool:
        """A client has one retry: one gateway in the time that a retry may last."""
        if time.monotonic() < self._gateway_at + FIRST_BYTE_SECONDS:
            return False
        if not self._all_gateways_listen():
            return False
        self._gateway_at = time.monotonic()
        return chaos.strike(target, signal.SIGKILL)

    def _hit(self, target: Target, kind: str) -> bool:
        wanted = "gateway" if kind == "gateway" else "rank"
        return target.kind == wanted

    def _whole(self) -> int:
        """Engines that have had the time to start, less those that may still be hurt."""
        ranks = [target for target in targets(self._platform.home) if target.kind == "rank"]
        born = []
        for target in ranks:
            with suppress(psutil.Error):  # it has just died
                born.append(target.processes[0].create_time())
        started = sum(time.time() - at > START_SECONDS for at in born)
        since = time.monotonic() - HELD_SECONDS
        self._hurt_at = [at for at in self._hurt_at if at > since]
        return started - len(self._hurt_at)

    def _all_gateways_listen(self) -> bool:
        for port in self._platform.gateway_ports:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    def _port(self) -> int:
        """Of an engine, by its own command line: the api may be away. -1 where none lives."""
        ports = []
        for target in targets(self._platform.home):
            if target.kind == "rank":
                with suppress(psutil.Error):
                    family = [*target.processes, *target.processes[0].children(recursive=True)]
                    ports += [found for one in family if (found := _after("--port", one.cmdline()))]
        return int(self._random.choice(sorted(set(ports)))) if ports else -1


def _after(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def apart(platform: Installation, mood: Path, replicas: int, seconds: float) -> list[str]:
    """The rollouts, the way back and the api's minute, each at its part of the time; returns
    what was done."""
    done = []
    begun = time.monotonic()

    def until(share: float) -> None:
        time.sleep(max(0.0, begun + share * seconds - time.monotonic()))

    with platform.connect() as client:
        until(0.15)
        client.apply([service(mood, replicas, 2)])
        done.append("rollout")
        until(0.4)
        for target in targets(platform.home):
            if target.kind == "api":
                chaos.hold(target, min(60.0, seconds * 0.1))
                done.append("api away")
        until(0.6)
        client.apply([service(mood, replicas, 3)])
        done.append("rollout")
        until(0.75)
        try:
            client.services.undo("echo")
            done.append("rollback")
        except QuarterdeckError as error:
            print(f"undo: {error}", file=sys.stderr)
        until(1.0)
    return done


def ready(platform: Installation, replicas: int, seconds: float) -> None:
    """Wait for the service."""
    deadline = time.monotonic() + seconds
    with platform.connect() as client:
        while client.services.get("echo").ready_replicas < replicas:
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready: {client.services.get('echo').message}")
            time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between faults")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        options.minutes = 1.0
    shape = Shape(gateways=2, slots=3 * options.replicas, node_ip="127.0.0.13")
    with tempfile.TemporaryDirectory(prefix="qd-serving-") as folder:
        mood = Path(folder) / "mood.json"
        mood.write_text("{}")
        with installation(shape) as platform:
            return run(platform, mood, options)


def run(platform: Installation, mood: Path, options: argparse.Namespace) -> int:
    with platform.connect() as client:
        client.apply([service(mood, options.replicas, 1)])
    ready(platform, options.replicas, 180)
    load = Load(
        [f"http://127.0.0.1:{port}" for port in platform.gateway_ports],
        read_key(platform.home.admin_key), "echo", options.clients, options.seed,
    )  # fmt: skip
    trouble = Trouble(platform, mood, options.every, options.seed)
    time.sleep(3)  # both gateways have heard of it
    load.start()
    trouble.start()
    done = apart(platform, mood, options.replicas, options.minutes * 60)
    trouble.stop()
    mood.write_text("{}")
    time.sleep(5)
    load.stop()
    counts = load.counts
    for words in sorted(load.wrong)[:40]:
        print(words, file=sys.stderr)
    print(f"faults: {dict(trouble.counts)}; {', '.join(done)}")
    print(f"requests: {dict(counts)}; refused: {dict(load.reasons)}")
    refused = counts["refused"] / max(1, counts["requests"])
    report(
        "serving_faults",
        {
            "requests": counts["requests"], "failed_before_first_byte": counts["failed"],
            "refused_share": refused, "retried": counts["retried"],
            "broken_streams": counts["broken"], "silent_streams": counts["silent"],
            "faults": sum(trouble.counts.values()),
        },
    )  # fmt: skip
    return int(bool(counts["failed"] or counts["silent"]) or refused > REFUSED_SHARE)


if __name__ == "__main__":
    sys.exit(main())
