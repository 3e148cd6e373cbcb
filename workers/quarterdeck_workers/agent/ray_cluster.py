"""What the agent asks of Ray: which machines there are, which supervisors live, start, kill."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quarterdeck.specs.protocol import (
    NodeReport,
    RunOrder,
    RunSighting,
    Stranger,
    SupervisorReport,
    TunnelToOpen,
    WeightsOrder,
)
from quarterdeck_workers.agent.ray_process import RayNode, client_environment
from quarterdeck_workers.agent.versions import LABELS, versions_of
from quarterdeck_workers.agent.weights_actor import NodeFetcher
from quarterdeck_workers.supervisor.actor import NAMESPACE, SupervisorActor, actor_name, run_of
from quarterdeck_workers.supervisor.shared_slot import FOLDER, free_unused

ACCELERATOR_LABEL = "quarterdeck/accelerator"
_PRIVATE_LABELS = ("ray.io/", ACCELERATOR_LABEL, *LABELS.values())
_DIFFERS = "Version mismatch"
"""How Ray says that a process may not enter a cluster."""
_CALL_SECONDS = 5.0
_PING_SECONDS = 3.0
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class RaySilent(Exception):
    """Ray's head does not answer in time: nothing that it could tell is known."""


class RayDiffers(Exception):
    """The Ray that runs here was started with another Ray or Python than this process has."""


class RayCluster:
    """One connected Ray. Every call has a bound: a dead head makes Ray's own calls wait.

    Raises RaySilent when it cannot be connected, and RayDiffers when it is of other versions.
    """

    def __init__(self, home: Path, node: RayNode) -> None:
        os.environ.update(client_environment(home))
        self._shared_slots = Path(node.temp, FOLDER)
        self._head_ip = node.address.rpartition(":")[0]
        self._calls = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ray-call")
        try:
            ray.init(
                address=node.address, namespace=NAMESPACE, log_to_driver=False,
                configure_logging=False, _node_ip_address=node.node_ip,
            )  # fmt: skip
        except ConnectionError as error:
            raise RaySilent(f"Ray's head at {node.address} does not answer") from error
        except RuntimeError as error:
            if _DIFFERS not in str(error):
                raise
            raise RayDiffers(" ".join(str(error).split())) from error

    def close(self) -> None:
        """Leave the cluster; what runs on it stays."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        ray.shutdown()

    def nodes(self) -> list[NodeReport]:
        """Machines of the cluster with slots, the dead ones too. Raises RaySilent."""
        return [
            _report(node, self._head_ip)
            for node in self._bounded(ray.nodes)
            if node["Resources"].get("slots", 0) > 0 or not node["Alive"]
        ]

    def free_shared_slots(self) -> None:
        """Give back shared slots whose last run was killed. Raises RaySilent."""
        try:
            self._bounded(lambda: free_unused(self._shared_slots))
        except (OSError, RuntimeError, RayError) as error:  # the next look may do it
            log.warning("shared slots: %s: %s", type(error).__name__, error)

    def sight(self, run_id: str, epoch: int) -> RunSighting:
        """What can be known of a run's supervisor now."""

        def sighting(state: Any, detail: str = "") -> RunSighting:
            return RunSighting(run_id=run_id, epoch=epoch, state=state, detail=detail)

        try:
            self._bounded(lambda: _ping(actor_name(run_id, epoch)), _CALL_SECONDS + _PING_SECONDS)
        except ValueError:
            return sighting("dead", "no supervisor of this name in the cluster")
        except ActorDiedError as error:
            return sighting("dead", str(error).splitlines()[0])
        except (GetTimeoutError, RaySilent):
            return sighting("unknown", "the supervisor does not answer")
        except RayError as error:
            return sighting("unknown", f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return sighting("alive")

    def strangers(self, known: set[tuple[str, int]]) -> list[Stranger]:
        """Every living supervisor that is not `known`, with what it says of itself. Raises
        RaySilent."""
        named = self._bounded(lambda: list_named_actors(all_namespaces=True))
        names = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
        runs = {run for name in names if (run := run_of(name)) is not None} - known
        asked = {run: self._calls.submit(_describe, actor_name(*run)) for run in sorted(runs)}
        wait(asked.values(), timeout=_CALL_SECONDS + _PING_SECONDS)
        return [stranger for run, answer in asked.items() if (stranger := _stranger(*run, answer))]

    def start(self, order: RunOrder) -> None:
        """Create the run's supervisor and hand it the order. Never twice: the caller has claimed.

        Raises RaySilent or ray's own errors; a supervisor of the name then may or may not exist.
        """
        self._bounded(lambda: _create(order), 60.0)

    def kill(self, run_id: str, epoch: int) -> None:
        """End a supervisor, and with it its ranks; nothing happens when it is gone already."""

        def end() -> None:
            try:
                ray.kill(ray.get_actor(actor_name(run_id, epoch), NAMESPACE))
            except ValueError:
                return

        self._bounded(end)

    def open_tunnel(self, request: TunnelToOpen) -> None:
        """Have the run's supervisor open a user's tunnel. Raises RaySilent, ValueError."""

        def ask() -> None:
            supervisor = ray.get_actor(actor_name(request.run_id, request.epoch), NAMESPACE)
            supervisor.open_tunnel.remote(request)

        self._bounded(ask)

    def fetch(self, node_id: str, order: WeightsOrder) -> NodeFetcher:
        """Have a node fetch a model's weights into its cache. Raises RaySilent."""
        return NodeFetcher(node_id, order, self._bounded)

    def _bounded(self, call: Callable[[], Answer], limit: float = _CALL_SECONDS) -> Answer:
        future: Future[Answer] = self._calls.submit(call)
        try:
            return future.result(limit)
        except FutureTimeout as error:
            if future.done():
                raise
            future.cancel()
            raise RaySilent(f"Ray did not answer within {limit:g} s") from error


def _ping(name: str) -> None:
    actor = ray.get_actor(name, NAMESPACE)
    ray.get(actor.ping.remote(), timeout=_PING_SECONDS)


def _describe(name: str) -> SupervisorReport:
    actor = ray.get_actor(name, NAMESPACE)
    report: SupervisorReport = ray.get(actor.describe.remote(), timeout=_PING_SECONDS)
    return report


def _stranger(run_id: str, epoch: int, answer: Future[SupervisorReport]) -> Stranger | None:
    """None for one that has gone since it was listed."""
    stranger = Stranger(run_id=run_id, epoch=epoch)
    if not answer.done():
        answer.cancel()
        return stranger
    try:
        stranger.report = answer.result()
    except (ValueError, ActorDiedError):
        return None
    except (RayError, AttributeError):  # silent, or of a version that is never asked
        return stranger
    return stranger


def _create(order: RunOrder) -> None:
    # Beside the agent, on the head: a lost node then costs a gang its ranks and not the witness
    # who tells of it, and a lost head ends every supervisor of the cluster in any case.
    here = ray.get_runtime_context().get_node_id()
    supervisor = SupervisorActor.options(
        name=actor_name(order.run_id, order.epoch),
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    ).remote()
    supervisor.run.remote(order)  # type: ignore[attr-defined]


def _report(node: dict[str, Any], head_ip: str) -> NodeReport:
    resources, labels = node["Resources"], dict(node.get("Labels") or {})
    return NodeReport(
        node_id=node["NodeID"],
        host=node["NodeManagerHostname"],
        address=node["NodeManagerAddress"],
        slots=int(resources.get("slots", 0)),
        accelerator=labels.get(ACCELERATOR_LABEL, "cpu"),
        cpus=float(resources.get("CPU", 0)),
        memory=int(resources.get("memory", 0)),
        labels={
            name: value for name, value in labels.items() if not name.startswith(_PRIVATE_LABELS)
        },
        alive=bool(node["Alive"]),
        is_head=node["NodeManagerAddress"] == head_ip,
        versions=versions_of(labels),
    )
