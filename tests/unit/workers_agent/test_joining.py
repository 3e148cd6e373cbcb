"""A machine that only joins waits for its cluster's head, and none joins one of other versions."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.client.errors import (
    KeyRejected,
    NotFound,
    QuarterdeckError,
    ServerFailure,
    Unreachable,
)
from quarterdeck.specs.protocol import JoinRequest, JoinTicket
from quarterdeck_workers.agent.ray_process import RayFailed
from quarterdeck_workers.agent.settings import AgentSettings
from quarterdeck_workers.agent.versions import labels_of, own_versions, versions_of

# The package has a function of the same name.
MAIN = importlib.import_module("quarterdeck_workers.agent.main")


class Late:
    """An api whose cluster gets a head after some questions; until then it refuses, or is away."""

    def __init__(
        self, after: int, stop: threading.Event | None = None, heads: Sequence[str] = (), *,
        says: QuarterdeckError | None = None,
    ) -> None:  # fmt: skip
        self.after, self.stop, self.asked = after, stop, 0
        self.heads = list(heads)
        self.told: list[JoinRequest] = []
        self.says = says or NotFound("cluster")

    def join(self, cluster: str, said: JoinRequest) -> JoinTicket:
        self.asked += 1
        self.told.append(said)
        if self.asked <= self.after:
            if self.stop is not None:
                self.stop.set()
            raise self.says
        versions = {"ray": self.heads.pop(0)} if self.heads else {}
        return JoinTicket(
            cluster=cluster, address="10.0.0.1:6379", ray_token="secret", versions=versions
        )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Ray would be started with."""
    asked: list[Any] = []
    monkeypatch.setattr(MAIN, "start_ray", lambda home, options: asked.append(options) or "ray")
    monkeypatch.setattr(MAIN, "_LOOK_SECONDS", 0.001)
    return asked


def start(api: Late, stop: threading.Event, *, only_join: bool) -> Any:
    settings = AgentSettings(
        "http://api", "gpu", Path("key"), Path("home"), slots=8, join=True, only_join=only_join
    )
    return MAIN._start(settings, api, stop)


def test_it_waits_until_there_is_a_head(started: list[Any]) -> None:
    api = Late(after=3)
    assert start(api, threading.Event(), only_join=True) == "ray"
    assert api.asked == 4
    assert (started[0].address, started[0].token) == ("10.0.0.1:6379", "secret")


@pytest.mark.parametrize("says", [Unreachable("nobody answers"), ServerFailure("starting")])
def test_it_waits_for_an_api_that_is_away(started: list[Any], says: QuarterdeckError) -> None:
    assert start(Late(after=3, says=says), threading.Event(), only_join=True) == "ray"
    assert len(started) == 1


def test_it_waits_for_another_head_where_one_was_lost(started: list[Any]) -> None:
    class Lost(Late):
        def join(self, cluster: str, said: JoinRequest) -> JoinTicket:
            self.asked += 1
            address = "10.0.0.1:6379" if self.asked <= self.after else "10.0.0.9:6379"
            silent = self.asked <= self.after
            return JoinTicket(cluster=cluster, address=address, ray_token="s", silent=silent)

    assert start(Lost(after=3), threading.Event(), only_join=True) == "ray"
    assert [options.address for options in started] == ["10.0.0.9:6379"]


def test_a_key_that_is_refused_is_not_waited_for(started: list[Any]) -> None:
    with pytest.raises(KeyRejected):
        start(Late(after=3, says=KeyRejected("unknown")), threading.Event(), only_join=True)
    assert started == []


def test_another_one_becomes_the_head(started: list[Any]) -> None:
    assert start(Late(after=3), threading.Event(), only_join=False) == "ray"
    assert started[0].address is None


def test_it_can_be_stopped_while_it_waits(started: list[Any]) -> None:
    stop = threading.Event()
    assert start(Late(after=10**6, stop=stop), stop, only_join=True) is None
    assert started == []


def test_it_tells_its_versions_and_labels_its_ray_with_them(started: list[Any]) -> None:
    api = Late(after=0)
    start(api, threading.Event(), only_join=True)
    mine = own_versions()
    assert set(mine) == {"quarterdeck", "ray", "python"} and all(mine.values())
    assert api.told[0].versions == mine and api.told[0].host
    assert versions_of(started[0].labels) == mine
    assert versions_of({**labels_of({"ray": "2.59.0"}), "zone": "a"}) == {"ray": "2.59.0"}


def test_a_head_of_another_ray_is_refused_before_ray_starts(started: list[Any]) -> None:
    with pytest.raises(RayFailed) as caught:
        start(Late(after=0, heads=["2.0.0"]), threading.Event(), only_join=False)
    assert f"Ray {own_versions()['ray']}, not 2.0.0" in str(caught.value)
    assert "the same image or environment" in str(caught.value)
    assert started == []


def test_a_machine_that_only_joins_waits_for_a_head_that_takes_it(
    started: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    mine = own_versions()["ray"]
    api = Late(after=0, heads=["2.0.0", "2.0.0", "2.0.0", mine])
    assert start(api, threading.Event(), only_join=True) == "ray"
    assert api.asked == 4
    assert [record.levelname for record in caplog.records] == ["WARNING"], "told once"


def test_it_can_be_stopped_while_the_head_does_not_take_it(started: list[Any]) -> None:
    stop = threading.Event()
    stop.set()
    assert start(Late(after=0, heads=["2.0.0"] * 2), stop, only_join=True) is None
    assert started == []
