"""What the store refuses, for the api to turn into problem answers."""

from __future__ import annotations


class StoreError(Exception):
    """Base of every refusal of the store."""


class NotFound(StoreError):
    """No such row."""

    def __init__(self, noun: str, key: str) -> None:
        self.noun, self.key = noun, key
        super().__init__(f"{noun} {key!r} does not exist")


class StaleEpoch(StoreError):
    """The run is fenced: a newer epoch exists, or it was given up. The run must die."""

    def __init__(self, run_id: str, epoch: int, detail: str) -> None:
        self.run_id, self.epoch = run_id, epoch
        super().__init__(f"run {run_id} of epoch {epoch} is fenced: {detail}")


class AlreadyClaimed(StoreError):
    """Another claim of this run was first, or it is not to be started any more."""

    def __init__(self, run_id: str, detail: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} cannot be claimed: {detail}")


class AgentSuperseded(StoreError):
    """A newer agent has taken the cluster over; this one must stop."""

    def __init__(self, cluster: str, agent_id: str) -> None:
        self.cluster, self.agent_id = cluster, agent_id
        super().__init__(f"agent {agent_id} of cluster {cluster!r} was replaced by a newer one")


class NodeAlive(StoreError):
    """A machine that still beats was called dead."""

    def __init__(self, host: str, seconds: float) -> None:
        self.host = host
        super().__init__(f"node {host} is alive: its agent spoke of it {seconds:.0f} s ago")


class WarmingsFull(StoreError):
    """More weights are wanted on nodes than is kept in mind."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"more than {most} copies of models would be under way: wait until some are there, or "
            "name fewer nodes"
        )


class StaleRow(StoreError):
    """A compare-and-swap lost: the row changed since it was read. Drop the result."""


class CapacityTaken(StoreError):
    """The slots that a plan chose are no longer free. Drop the result."""
