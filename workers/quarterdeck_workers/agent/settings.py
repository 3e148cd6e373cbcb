"""What an agent is told when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class AgentSettings:
    """One machine's agent. `url`: the api's address; `key_path`: a file of mode 0600 with a key
    of access `agent` (to join also `admin`)."""

    url: str
    cluster: str
    key_path: Path
    home: Path
    slots: int | None = None
    """Declared slots; None: the machine's GPUs, at least one slot a core without."""
    node_ip: str = "127.0.0.2"
    accelerator: str = "cpu"
    """Name of the hardware catalogue."""
    join: bool = False
    """Join the cluster if it has a head already; else become its head."""
    only_join: bool = False
    """With `join`: never become the head, but wait for one."""
    endpoints_reachable: bool = True
    project: str | None = None
    """The project to which the cluster belongs; None: shared."""
    labels: dict[str, str] = field(default_factory=dict)
    object_store_bytes: int = 100_000_000
    ray_port: int | None = None
    """Where a head listens; None: a free port."""
    ray_token_path: Path | None = None
    """A head's token for Ray, a private file; None: the home has one of its own."""
    stop_ray: bool = False
    """End this machine's Ray, and so every run on it, when the agent ends."""
    at_work: Callable[[], None] = lambda: None
    """Called while the machine serves its cluster: after each beat, or look at its Ray."""
    beat_seconds: float = 2.0
    poll_seconds: float = 20.0
