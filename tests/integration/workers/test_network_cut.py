"""Two hosts of a gang in network namespaces of their own, and the link between them cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import psutil
import pytest
from conftest import Machine, marked
from worker_recorder import Recorder

HERE, THERE = "10.213.7.1", "10.213.7.2"
NOTICE_SECONDS = 150.0
"""Ray's head gives a silent machine up after about 40 s; a host ends its ranks after 30."""


class Link:
    """A network namespace joined to this one by a cable that can be cut."""

    def __init__(self) -> None:
        word = secrets.token_hex(3)
        self.name, self._near, far = f"qd-{word}", f"qdn{word}", f"qdf{word}"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", "name", far)
            _ip("link", "set", far, "netns", self.name)
            _ip("addr", "add", f"{HERE}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            _ip("-n", self.name, "addr", "add", f"{THERE}/30", "dev", far)
            _ip("-n", self.name, "link", "set", far, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        _ip("link", "set", self._near, "down")

    def mend(self) -> None:
        _ip("link", "set", self._near, "up")

    def close(self) -> None:
        _ip("netns", "del", self.name)  # the cable goes with its end inside


def _ip(*arguments: str) -> None:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces needs root and iproute2")
    try:
        link = Link()
    except OSError as error:
        pytest.skip(f"this machine makes no network namespaces: {error}")
    yield link
    link.close()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_gang_whose_hosts_are_cut_apart_ends_on_both_sides(
    link: Link, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recorder = Recorder(HERE)
    inside = ("ip", "netns", "exec", link.name)
    machines = [Machine(tmp_path_factory.mktemp("h"), recorder.url, 2, HERE)]
    try:
        recorder.wait(lambda: len(recorder.nodes) == 1, 90)
        machines.append(
            Machine(tmp_path_factory.mktemp("t"), recorder.url, 2, THERE, join=True, within=inside)
        )
        recorder.wait(lambda: len(recorder.nodes) == 2, 90)
        nodes = {node.address: node.node_id for node in recorder.nodes}
        both = [nodes[HERE], nodes[THERE]]
        run = recorder.submit("torn", "command", {"command": "sleep 600"}, nodes=both)
        pids = recorder.pids(run)

        link.cut()
        failure = recorder.ended(run, NOTICE_SECONDS).failure
        assert failure is not None
        assert (failure.rank, failure.blame) == (1, "node")
        # Before anybody may start the job again, nothing of it runs any more, on either side.
        assert not [pid for pid in pids if _lives(pid)]

        link.mend()
        again = recorder.submit(
            "torn-2", "command", {"command": "echo here"}, nodes=both[:1], epoch=2,
            owner_id="job-torn",
        )  # fmt: skip
        assert recorder.ended(again).reported_phase == "succeeded"
        assert recorder.lines(again) == ["here"]
    finally:
        for machine in reversed(machines):
            machine.close()
        recorder.close()
    assert [marked(machine.home) for machine in machines] == [[] for _ in machines]
